//! Faults, with nothing acknowledged lost and no wrong byte ever read: deaths at every named step, an engine that dies, a
//! store that fails, full disks, and clients killed in turn.

mod faults {
    mod clients;
    mod disk;
    mod engine;
    mod points;
    mod storage;
}
