//! Programs that people run: they work on a mount as they do on a local file system.

mod apps {
    mod databases;
    mod load;
    mod sources;
}
