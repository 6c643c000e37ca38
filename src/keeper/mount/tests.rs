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

#[test]
fn a_directory_is_reached_through_directories_alone() {
    let dir = tempfile::tempdir().expect("a place");
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("a/b")).expect("new");
    std::fs::create_dir(at("a/mounted")).expect("new");
    std::fs::write(at("a/file"), "x").expect("new");
    std::os::unix::fs::symlink("b", at("a/link")).expect("new");
    std::os::unix::fs::symlink("/", at("a/root")).expect("new");
    let device = open_device().expect("tests need /dev/fuse");
    mount(device.as_fd(), &at("a/mounted"), &MountSpec::volume("test", false, 131_072)).expect("tests need root");
    let below = |path: &str| {
        let (fd, entry) = open_mount(dir.path()).expect("readable");
        FuseRoot { fd, entry }.below(Path::new(path))
    };
    let found = below("a/b").expect("a directory");
    std::fs::write(found.path().join("new"), "x").expect("writable");
    assert!(at("a/b/new").exists());
    for path in
        ["none", "a/none/b", "a/file", "a/link", "a/link/b", "a/root", "a/root/etc", "a/mounted", "..", "a/../../x"]
    {
        let error = below(path).expect_err(path);
        assert!(matches!(error, Error::NoDirectory { .. }), "{path}: {error}");
        assert!(error.to_string().contains(path), "{error}");
    }
    umount(&at("a/mounted"), true).expect("mounted");
    let left = std::fs::read_dir(at("a")).expect("there").count();
    assert_eq!(left, 5, "nothing was made or renamed");
}
