//! The Lua scripts, called by their digest.

use std::sync::LazyLock;

use redis::Cmd;

/// A script that the server may know already.
#[derive(Debug)]
pub(super) struct Script {
    source: &'static str,
    digest: String,
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $($file:literal)+;)*) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!($(include_str!($file)),+))
        });)*

        /// All of them.
        pub(super) fn all() -> impl Iterator<Item = &'static Script> {
            [$(&$name),*].into_iter().map(|script| &**script)
        }
    };
}

// With as little as each needs: the server makes every function anew at each call.
scripts! {
    /// An entry and its attributes.
    LOOKUP = "lua/lib.lua" "lua/entry.lua" "lua/lookup.lua";
    /// Any records.
    FETCH = "lua/lib.lua" "lua/fetch.lua";
    /// Compare and write.
    COMMIT = "lua/lib.lua" "lua/commit.lua";
    /// What became of a commit.
    RESOLVE = "lua/resolve.lua";
    /// A page of all keys of a kind.
    SCAN = "lua/lib.lua" "lua/cursor.lua" "lua/scan.lua";
    /// A page of a hash.
    SCAN_HASH = "lua/lib.lua" "lua/cursor.lua" "lua/scan_hash.lua";
    /// Existing chunks of a file.
    CHUNKS = "lua/chunks.lua";
    /// Slice references of an old form.
    MOVE_REFS = "lua/move_refs.lua";
    /// Slice references that say nothing.
    DROP_ZEROS = "lua/drop_zeros.lua";
    /// Locks and registration of a session.
    CLEAN_SESSION = "lua/clean_session.lua";
}

impl Script {
    fn new(source: &'static str) -> Self {
        let digest = redis::Script::new(source).get_hash().to_owned();
        Self { source, digest }
    }

    /// The command that makes the server keep it.
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.source);
        command
    }

    /// A call by digest; the server may answer NOSCRIPT.
    pub(super) fn call(&self, keys: &[&[u8]]) -> Cmd {
        Self::start("EVALSHA", &self.digest, keys)
    }

    /// A call with the source, which the server keeps for the next call by digest.
    pub(super) fn call_with_source(&self, keys: &[&[u8]]) -> Cmd {
        Self::start("EVAL", self.source, keys)
    }

    fn start(command: &str, script: &str, keys: &[&[u8]]) -> Cmd {
        let mut command = redis::cmd(command);
        command.arg(script).arg(keys.len());
        for key in keys {
            command.arg(*key);
        }
        command
    }
}
