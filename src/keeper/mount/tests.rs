use super::*;

/// A mounted, unserved FUSE connection in a temporary directory; these tests need root, as the node service does.
/// Whatever asks the file system something (even stat) would wait for ever.
struct Mounted {
    dir: tempfile::TempDir,
    _device: OwnedFd,
}

impl Mounted {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a place");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("new");
        std::fs::create_dir(dir.path().join("target")).expect("new");
        let device = open_device().expect("tests need /dev/fuse");
        mount(device.as_fd(), &root, &MountSpec::volume("test", false, 131_072)).expect("tests need root");
        Self { dir, _device: device }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _absent = umount(&self.dir.path().join("target"), true);
        let _absent = umount(&self.root(), true);
    }
}

#[test]
fn a_mount_shows_its_source_and_type() {
    let mounted = Mounted::new();
    let entry = root_of(&mounted.root()).expect("readable").expect("mounted");
    assert_eq!((&*entry.source, &*entry.fs_type), ("JuiceFS:test", FS_TYPE));
    assert!(entry.options.contains("nosuid") && entry.options.contains("nodev"), "{}", entry.options);
    umount(&mounted.root(), false).expect("nobody uses it");
    assert!(!is_mounted(&mounted.root()).expect("readable"));
    umount(&mounted.root(), false).expect("a repeat is a success");
}

#[test]
fn a_bind_can_be_read_only_and_shows_the_same_device() {
    let mounted = Mounted::new();
    let root = FuseRoot::open(&mounted.root()).expect("ours");
    root.bind(&mounted.target(), true).expect("bound");
    let bound = root_of(&mounted.target()).expect("readable").expect("bound");
    assert!(bound.read_only());
    assert_eq!(bound.device, root.entry.device);
    assert!(!root_of(&mounted.root()).expect("readable").expect("still there").read_only());
}

#[test]
fn a_directory_that_is_no_mounted_root_is_never_bound() {
    let mounted = Mounted::new();
    for dir in [mounted.dir.path().to_owned(), PathBuf::from("/proc")] {
        assert!(matches!(FuseRoot::open(&dir), Err(Error::NotOurs { .. })), "{}", dir.display());
    }
    umount(&mounted.root(), false).expect("nobody uses it");
    assert!(matches!(FuseRoot::open(&mounted.root()), Err(Error::NotOurs { .. })));
    assert!(matches!(FuseRoot::open(Path::new("/nowhere")), Err(Error::Call { .. })));
}

#[test]
fn an_abort_frees_whoever_waits() {
    let mounted = Mounted::new();
    let root = mounted.root();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(usage(&root)));
    assert!(told.recv_timeout(std::time::Duration::from_millis(200)).is_err(), "nobody serves, so it waits");
    abort(&mounted.root()).expect("root may");
    let answer = told.recv_timeout(std::time::Duration::from_secs(10)).expect("freed");
    assert!(matches!(answer, Err(Error::Call { .. })), "{answer:?}");
}

#[test]
fn an_immutable_directory_takes_no_files() {
    let dir = tempfile::tempdir().expect("a place");
    set_immutable(dir.path(), true).expect("the temporary directory's file system has flags");
    assert!(std::fs::write(dir.path().join("file"), "x").is_err());
    set_immutable(dir.path(), false).expect("root may");
    std::fs::write(dir.path().join("file"), "x").expect("writable again");
}
