//! The answers to commands that are to be told of: CLIENT CACHING goes in front of them, and may fail by itself.

use redis::{ErrorKind, RedisError, RedisResult, Value};

/// An answer.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) answer: Value,
    /// Whether the server will tell of what was read.
    pub(super) is_told: bool,
}

/// From the answers to CLIENT CACHING and a command. The command was done whatever became of the first. An error of
/// [`ErrorKind::Io`] is about the connection: what became of the command is not known.
pub(super) fn after_caching(replies: Vec<Value>) -> RedisResult<Watched> {
    let [caching, answer] = exactly(replies)?;
    Ok(Watched { answer: answer.extract_error()?, is_told: !matches!(caching, Value::ServerError(_)) })
}

fn exactly<const N: usize>(replies: Vec<Value>) -> RedisResult<[Value; N]> {
    replies.try_into().map_err(|_other| out_of_step())
}

fn out_of_step() -> RedisError {
    RedisError::from((ErrorKind::Io, "the answers do not belong to the commands"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Value {
        let reply = format!("-{text}\r\n");
        redis::parse_redis_value(reply.as_bytes()).expect("an error")
    }

    #[test]
    fn only_the_command_s_own_answer_counts() {
        let watched = after_caching(vec![Value::Okay, Value::Int(7)]).expect("done");
        assert!(watched.answer == Value::Int(7) && watched.is_told);
        let watched = after_caching(vec![error("NOPERM x"), Value::Int(7)]).expect("done");
        assert!(watched.answer == Value::Int(7) && !watched.is_told);
        assert_eq!(after_caching(vec![Value::Okay, error("OOM x")]).expect_err("refused").code(), Some("OOM"));
    }

    #[test]
    fn answers_that_are_out_of_step_end_the_connection() {
        for replies in [vec![], vec![Value::Okay], vec![Value::Okay, Value::Int(1), Value::Int(1)]] {
            assert_eq!(after_caching(replies).expect_err("out of step").kind(), ErrorKind::Io);
        }
    }
}
