//! What the kernel asks, taken apart. Whatever does not have the form that its opcode prescribes is refused.

use zerocopy::FromBytes;

use crate::abi::{self, InHeader, op};

/// A request that is not what the protocol says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// Not even a header: nothing to answer to.
    #[error("a request of {0} bytes, where the header alone has 40")]
    Header(usize),
    /// The header's length is not the length read.
    #[error("a request of {read} bytes that says to have {said}")]
    Length { read: usize, said: u32 },
    /// The struct, name or data of the opcode is missing or too short.
    #[error("a request without a complete {0}")]
    Short(&'static str),
}

type Result<T, E = Malformed> = std::result::Result<T, E>;

/// A request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) header: InHeader,
    body: &'a [u8],
}

/// What is asked, with the struct that came along. Names are without NUL.
#[derive(Debug)]
pub(crate) enum Operation<'a> {
    Lookup(&'a [u8]),
    Forget,
    GetAttr,
    SetAttr(abi::SetattrIn),
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MkNod(abi::MknodIn, &'a [u8]),
    MkDir(abi::MkdirIn, &'a [u8]),
    Unlink(&'a [u8]),
    RmDir(&'a [u8]),
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    Link {
        inode: u64,
        name: &'a [u8],
    },
    Open(abi::OpenIn),
    Read(abi::ReadIn),
    Write(abi::WriteIn, &'a [u8]),
    StatFs,
    Release(abi::ReleaseIn),
    FSync(abi::FsyncIn),
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
    },
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr(&'a [u8]),
    Flush(abi::FlushIn),
    Init(abi::InitIn, abi::InitExtIn),
    OpenDir,
    ReadDir {
        what: abi::ReadIn,
        plus: bool,
    },
    ReleaseDir(abi::ReleaseIn),
    FSyncDir,
    Lock {
        what: abi::LkIn,
        how: Locking,
    },
    Create(abi::CreateIn, &'a [u8]),
    Interrupt(abi::InterruptIn),
    Destroy,
    Ioctl(abi::IoctlIn, &'a [u8]),
    FAllocate(abi::FallocateIn),
    LSeek(abi::LseekIn),
    CopyFileRange(abi::CopyFileRangeIn),
    SyncFs,
    TmpFile(abi::CreateIn),
    /// An opcode that is not served, and that the kernel does without once it was told so: ACCESS (it checks by itself,
    /// `default_permissions`), STATX (only for a time of birth, which is not stored), BMAP, POLL.
    Unknown,
}

/// What is to be done about a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locking {
    /// Tell who is in the way.
    Get,
    /// Take it or fail.
    Set,
    /// Wait for it.
    Wait,
}

impl<'a> Request<'a> {
    /// The request in `bytes`, as one read(2) brought it.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let header = InHeader::read_from_prefix(bytes);
        let (header, body) = header.map_err(|_short| Malformed::Header(bytes.len()))?;
        if header.len as usize != bytes.len() {
            return Err(Malformed::Length { read: bytes.len(), said: header.len });
        }
        Ok(Self { header, body })
    }

    /// What is asked.
    pub(crate) fn operation(&self) -> Result<Operation<'a>> {
        let mut body = Body(self.body);
        match self.names(&mut body)? {
            Some(operation) => Ok(operation),
            None => self.files(&mut body),
        }
    }

    fn names(&self, body: &mut Body<'a>) -> Result<Option<Operation<'a>>> {
        Ok(Some(match self.header.opcode {
            op::LOOKUP => Operation::Lookup(body.name()?),
            op::FORGET | op::BATCH_FORGET => Operation::Forget,
            op::GETATTR => Operation::GetAttr,
            op::SETATTR => Operation::SetAttr(body.take()?),
            op::READLINK => Operation::ReadLink,
            op::SYMLINK => Operation::Symlink { name: body.name()?, target: body.name()? },
            op::MKNOD => Operation::MkNod(body.take()?, body.name()?),
            op::MKDIR => Operation::MkDir(body.take()?, body.name()?),
            op::UNLINK => Operation::Unlink(body.name()?),
            op::RMDIR => Operation::RmDir(body.name()?),
            op::RENAME => {
                let abi::RenameIn { newdir } = body.take()?;
                Operation::Rename { name: body.name()?, new_parent: newdir, new_name: body.name()?, flags: 0 }
            }
            op::RENAME2 => {
                let abi::Rename2In { newdir, flags, .. } = body.take()?;
                Operation::Rename { name: body.name()?, new_parent: newdir, new_name: body.name()?, flags }
            }
            op::LINK => {
                let abi::LinkIn { oldnodeid } = body.take()?;
                Operation::Link { inode: oldnodeid, name: body.name()? }
            }
            op::SETXATTR => {
                let abi::SetxattrIn { size, flags } = body.take()?;
                Operation::SetXattr { name: body.name()?, value: body.bytes(size)?, flags }
            }
            op::GETXATTR => {
                let abi::GetxattrIn { size, .. } = body.take()?;
                Operation::GetXattr { name: body.name()?, size }
            }
            op::LISTXATTR => {
                let abi::GetxattrIn { size, .. } = body.take()?;
                Operation::ListXattr { size }
            }
            op::REMOVEXATTR => Operation::RemoveXattr(body.name()?),
            op::STATFS => Operation::StatFs,
            _ => return Ok(None),
        }))
    }

    fn files(&self, body: &mut Body<'a>) -> Result<Operation<'a>> {
        Ok(match self.header.opcode {
            op::OPEN => Operation::Open(body.take()?),
            op::CREATE => Operation::Create(body.take()?, body.name()?),
            op::TMPFILE => Operation::TmpFile(body.take()?),
            op::READ => Operation::Read(body.take()?),
            op::WRITE => {
                let write: abi::WriteIn = body.take()?;
                Operation::Write(write, body.bytes(write.size)?)
            }
            op::FLUSH => Operation::Flush(body.take()?),
            op::FSYNC => Operation::FSync(body.take()?),
            op::RELEASE => Operation::Release(body.take()?),
            op::OPENDIR => Operation::OpenDir,
            op::READDIR => Operation::ReadDir { what: body.take()?, plus: false },
            op::READDIRPLUS => Operation::ReadDir { what: body.take()?, plus: true },
            op::RELEASEDIR => Operation::ReleaseDir(body.take()?),
            op::FSYNCDIR => Operation::FSyncDir,
            op::GETLK => Operation::Lock { what: body.take()?, how: Locking::Get },
            op::SETLK => Operation::Lock { what: body.take()?, how: Locking::Set },
            op::SETLKW => Operation::Lock { what: body.take()?, how: Locking::Wait },
            op::IOCTL => {
                let ioctl: abi::IoctlIn = body.take()?;
                Operation::Ioctl(ioctl, body.bytes(ioctl.in_size)?)
            }
            op::FALLOCATE => Operation::FAllocate(body.take()?),
            op::LSEEK => Operation::LSeek(body.take()?),
            op::COPY_FILE_RANGE => Operation::CopyFileRange(body.take()?),
            op::INTERRUPT => Operation::Interrupt(body.take()?),
            op::INIT => Operation::Init(body.take()?, body.take().unwrap_or_default()),
            op::DESTROY => Operation::Destroy,
            op::SYNCFS => Operation::SyncFs,
            _ => Operation::Unknown,
        })
    }
}

/// Whether serving the request in `bytes` takes as long as copying data does.
pub(crate) fn moves_data(bytes: &[u8]) -> bool {
    InHeader::read_from_prefix(bytes).is_ok_and(|(header, _body)| matches!(header.opcode, op::READ | op::WRITE))
}

/// What is left of a request.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take<T: FromBytes>(&mut self) -> Result<T> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_short| Malformed::Short("struct"))?;
        self.0 = rest;
        Ok(value)
    }

    /// Everything up to the next NUL.
    fn name(&mut self) -> Result<&'a [u8]> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(Malformed::Short("name"))?;
        let name = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(name)
    }

    fn bytes(&mut self, size: u32) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(size as usize).ok_or(Malformed::Short("data"))?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes as _;

    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(size_of::<InHeader>() + body.len()).unwrap();
        [InHeader { len, opcode, ..InHeader::default() }.as_bytes(), body].concat()
    }

    #[test]
    fn names_end_at_their_nul() {
        let bytes = request(op::RENAME2, &[&7u64.to_ne_bytes()[..], &[1, 0, 0, 0, 0, 0, 0, 0], b"a\0bc\0"].concat());
        let Operation::Rename { name, new_parent, new_name, flags } =
            Request::parse(&bytes).unwrap().operation().unwrap()
        else {
            panic!("another operation");
        };
        assert_eq!((name, new_parent, new_name, flags), (&b"a"[..], 7, &b"bc"[..], 1));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        assert_eq!(Request::parse(&[0; 39]).unwrap_err(), Malformed::Header(39));
        let mut bytes = request(op::LOOKUP, b"name");
        assert_eq!(Request::parse(&bytes).unwrap().operation().unwrap_err(), Malformed::Short("name"));
        bytes.push(0);
        assert_eq!(Request::parse(&bytes).unwrap_err(), Malformed::Length { read: 45, said: 44 });
        let write = abi::WriteIn { size: 9, ..abi::WriteIn::default() };
        let bytes = request(op::WRITE, &[write.as_bytes(), &[0; 8]].concat());
        assert_eq!(Request::parse(&bytes).unwrap().operation().unwrap_err(), Malformed::Short("data"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(opcode in 0u32..60, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = request(opcode, &body);
            let _refused_or_not = Request::parse(&bytes).expect("the header is whole").operation();
            let _too_short = Request::parse(&body).map(|request| request.operation().map(|_| ()));
        }
    }
}
