//! Access control lists of inodes.

use super::*;
use crate::records::AclRule;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

async fn listed() -> Volume {
    Setup { enable_acl: true, enable_xattr: false, ..Setup::default() }.volume().await
}

fn rule(users: &[(u32, u16)]) -> AclRule {
    AclRule { owner: 7, group: 5, mask: 5, other: 1, users: users.to_vec(), groups: Vec::new() }
}

async fn set(v: &Volume, caller: &Caller, ino: Ino, name: &[u8], rule: &AclRule) -> Result<()> {
    v.set_xattr(caller, ino, name, &rule.encode_xattr(), XattrFlag::Any).await
}

async fn get(v: &Volume, ino: Ino, name: &[u8]) -> AclRule {
    AclRule::decode_xattr(&v.get_xattr(ino, name).await.expect("set")).expect("valid")
}

async fn made(v: &Volume, dir: Ino, name: &str, mode: u16, umask: u16) -> Attr {
    v.mknod(&user(1000), dir, name.as_bytes(), NewNode::file(mode, umask)).await.expect("made").1
}

#[tokio::test]
async fn an_access_list_sets_the_mode_and_chmod_sets_the_list() {
    let v = listed().await;
    let ino = v.file(ROOT, "f").await;
    set(&v, &root(), ino, ACCESS, &rule(&[(1000, 6)])).await.expect("set");
    assert_eq!((v.attr(ino).await.mode, get(&v, ino, ACCESS).await), (0o751, rule(&[(1000, 6)])));
    let chmod = SetAttr { mode: Some(0o4620), ..SetAttr::default() };
    v.setattr(&root(), ino, chmod).await.expect("changed");
    let expected = AclRule { owner: 6, group: 5, mask: 2, other: 0, ..rule(&[(1000, 6)]) };
    assert_eq!((v.attr(ino).await.mode, get(&v, ino, ACCESS).await), (0o4620, expected));
    let names = v.list_xattrs(ino).await.expect("listed");
    assert_eq!(names.iter().map(Name::as_bytes).collect::<Vec<_>>(), [ACCESS]);
    v.remove_xattr(&root(), ino, ACCESS).await.expect("removed");
    refused!(v.get_xattr(ino, ACCESS).await, Error::NoXattr { .. });
    assert_eq!(v.attr(ino).await.access_acl, 0);
}

#[tokio::test]
async fn a_minimal_list_is_a_mode() {
    let v = listed().await;
    let ino = v.file(ROOT, "f").await;
    set(&v, &root(), ino, ACCESS, &rule(&[(1000, 6)])).await.expect("set");
    let minimal = AclRule { mask: AclRule::UNSET, ..rule(&[]) };
    set(&v, &root(), ino, ACCESS, &minimal).await.expect("set");
    let attr = v.attr(ino).await;
    assert_eq!((attr.access_acl, attr.mode), (0, 0o751));
}

#[tokio::test]
async fn equal_rules_share_an_id_between_clients() {
    let v = listed().await;
    let other = v.second().await;
    other.start_session().await.expect("starts");
    let (a, b) = (v.file(ROOT, "a").await, v.file(ROOT, "b").await);
    set(&v, &root(), a, ACCESS, &rule(&[(1000, 6)])).await.expect("set");
    set(&other, &root(), b, ACCESS, &rule(&[(1000, 6)])).await.expect("set");
    assert_eq!((v.attr(a).await.access_acl, v.attr(b).await.access_acl), (1, 1));
    set(&other, &root(), b, ACCESS, &rule(&[(1001, 6)])).await.expect("set");
    assert_eq!(get(&v, b, ACCESS).await, rule(&[(1001, 6)]), "a rule that another client made");
    assert_eq!(v.store.snapshot().acls.len(), 2);
}

#[tokio::test]
async fn what_is_made_in_a_directory_begins_with_its_default_list() {
    for store in [MemoryStore::new(), MemoryStore::remote()] {
        let v = Setup { store, enable_acl: true, ..Setup::default() }.volume().await;
        let dir = v.dir(ROOT, "d").await;
        set(&v, &root(), dir, DEFAULT, &rule(&[(1001, 7)])).await.expect("set");
        assert_eq!(v.attr(dir).await.mode, 0o755, "a default list leaves the mode");
        let attr = made(&v, dir, "f", 0o664, 0o077).await;
        assert_eq!((attr.mode, attr.default_acl), (0o640, 0), "the umask does not count");
        let file = v.lookup(dir, b"f").await.expect("there").0;
        let expected = AclRule { owner: 6, group: 5, mask: 4, other: 0, ..rule(&[(1001, 7)]) };
        assert_eq!(get(&v, file, ACCESS).await, expected);
        let sub = v.dir(dir, "sub").await;
        assert_eq!(get(&v, sub, DEFAULT).await, rule(&[(1001, 7)]), "directories pass it on");
        let (_ino, link) = v.symlink(&root(), dir, b"l", b"f").await.expect("made");
        assert_eq!((link.mode, link.access_acl), (0o777, 0));
        v.audit().await;
    }
}

#[tokio::test]
async fn a_minimal_default_list_only_limits_the_mode() {
    let v = listed().await;
    let dir = v.dir(ROOT, "d").await;
    let minimal = AclRule { owner: 7, group: 4, mask: AclRule::UNSET, other: 0, ..rule(&[]) };
    set(&v, &root(), dir, DEFAULT, &minimal).await.expect("set");
    let attr = made(&v, dir, "f", 0o666, 0o777).await;
    assert_eq!((attr.mode, attr.access_acl), (0o640, 0));
}

#[tokio::test]
async fn lists_are_for_owners_directories_and_volumes_that_have_them() {
    let v = listed().await;
    let ino = v.file(ROOT, "f").await;
    refused!(set(&v, &user(1000), ino, ACCESS, &rule(&[(1000, 7)])).await, Error::NotPermitted { .. });
    refused!(set(&v, &root(), ino, DEFAULT, &rule(&[(1000, 7)])).await, Error::AccessDenied { .. });
    refused!(v.set_xattr(&root(), ino, ACCESS, b"?", XattrFlag::Any).await, Error::Invalid { .. });
    let sgid = SetAttr { mode: Some(0o2755), uid: Some(1000), gid: Some(50), ..SetAttr::default() };
    v.setattr(&root(), ino, sgid).await.expect("set");
    v.setattr(&root(), ino, SetAttr { mode: Some(0o2755), ..SetAttr::default() }).await.expect("set");
    set(&v, &user(1000), ino, ACCESS, &rule(&[(1, 7)])).await.expect("set");
    assert_eq!(v.attr(ino).await.mode, 0o751, "who is not in the group loses setgid");
    let v = Volume::plain().await;
    let ino = v.file(ROOT, "f").await;
    refused!(set(&v, &root(), ino, ACCESS, &rule(&[(1, 7)])).await, Error::NotSupported { .. });
    refused!(v.get_xattr(ino, ACCESS).await, Error::NotSupported { .. });
}

#[tokio::test]
async fn what_a_security_module_reads_is_served_on_request_only() {
    let v = Volume::plain().await;
    let ino = v.file(ROOT, "f").await;
    for name in [b"security.capability".as_slice(), b"security.selinux"] {
        refused!(v.get_xattr(ino, name).await, Error::NoXattr { .. });
        refused!(v.set_xattr(&root(), ino, name, b"1", XattrFlag::Any).await, Error::NotSupported { .. });
    }
    let settings = MetaOptions { enable_xattr: true, enable_cap: true, enable_selinux: true, ..options(&v.clock) };
    let other = Volume::open(Arc::clone(&v.store), Arc::clone(&v.clock), settings).await;
    for name in [b"security.capability".as_slice(), b"security.selinux"] {
        other.set_xattr(&root(), ino, name, b"1", XattrFlag::Any).await.expect("set");
        assert_eq!(other.get_xattr(ino, name).await.expect("set"), "1");
    }
}
