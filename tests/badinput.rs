//! Bad input: a clear message with the right code, soon, and nothing left behind.

mod badinput {
    mod command_line;
    mod csi;
    mod lost_engine;
}
