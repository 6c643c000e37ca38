//! Random operations on real mounts, on all layers in memory, and on a small model: everything that can be seen is the same
//! after each step, and after a crash everything that was acknowledged.

mod model {
    mod memory;
    mod operation;
    mod reference;
    mod run;
    mod target;
}
