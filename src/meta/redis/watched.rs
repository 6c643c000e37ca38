//! The answers to commands that are to be told of: CLIENT CACHING goes in front of them, and may fail by itself.

use redis::{ErrorKind, RedisError, RedisResult, Value};

/// An answer.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) answer: Value,
    /// Whether the server will tell of what was read.
    pub(super) is_told: bool,
}

/// From the answers to CLIENT CACHING and a command. The command was done whatever became of the first.
pub(super) fn after_caching(replies: Vec<Value>) -> RedisResult<Watched> {
    let [caching, answer] = exactly(replies)?;
    Ok(Watched { answer: answer.extract_error()?, is_told: !is_error(&caching) })
}

/// From the answers to CLIENT CACHING, MULTI, a command, EXISTS and EXEC. An error of [`ErrorKind::Io`] is about the
/// connection: what became of the command is not known.
pub(super) fn in_transaction(replies: Vec<Value>) -> RedisResult<Watched> {
    let [caching, multi, command, exists, exec] = exactly(replies)?;
    match exec {
        // A server before 7.0.5 tells between the answers of a transaction, and everything behind is out of step.
        Value::Array(answers) if answers.iter().any(|answer| matches!(answer, Value::Push { .. })) => {
            Err(out_of_step())
        }
        Value::Array(answers) => {
            let [answer, _exists] = exactly(answers)?;
            Ok(Watched { answer: answer.extract_error()?, is_told: !is_error(&caching) })
        }
        // There was no transaction, and the command was done at once.
        _ if is_error(&multi) => Ok(Watched { answer: command.extract_error()?, is_told: false }),
        // What is refused says why there; EXEC only says that it was.
        Value::ServerError(aborted) if aborted.code() == "EXECABORT" => {
            command.extract_error()?;
            exists.extract_error()?;
            Err(RedisError::from(aborted))
        }
        // The connection waits for an EXEC that is never accepted.
        _ => Err(out_of_step()),
    }
}

fn is_error(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(_))
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

    fn okay() -> Value {
        Value::Okay
    }

    fn queued() -> Value {
        Value::SimpleString("QUEUED".to_owned())
    }

    fn done() -> Value {
        Value::Array(vec![Value::Int(1), Value::Int(4)])
    }

    #[test]
    fn only_the_command_s_own_answer_counts() {
        let watched = in_transaction(vec![okay(), okay(), queued(), queued(), done()]).expect("done");
        assert!(watched.answer == Value::Int(1) && watched.is_told);
        let watched = in_transaction(vec![error("NOPERM x"), okay(), queued(), queued(), done()]).expect("done");
        assert!(watched.answer == Value::Int(1) && !watched.is_told);
        let direct = vec![okay(), error("NOPERM x"), Value::Int(1), Value::Int(4), error("ERR EXEC without MULTI")];
        let watched = in_transaction(direct).expect("done");
        assert!(watched.answer == Value::Int(1) && !watched.is_told);
        let watched = after_caching(vec![error("ERR x"), Value::Int(7)]).expect("done");
        assert!(watched.answer == Value::Int(7) && !watched.is_told);
    }

    #[test]
    fn what_was_refused_says_why() {
        let refused = vec![okay(), okay(), error("OOM x"), queued(), error("EXECABORT x")];
        assert_eq!(in_transaction(refused).expect_err("refused").code(), Some("OOM"));
        let failed = Value::Array(vec![error("NOSCRIPT x"), Value::Int(4)]);
        let failed = vec![okay(), okay(), queued(), queued(), failed];
        assert_eq!(in_transaction(failed).expect_err("failed").code(), Some("NOSCRIPT"));
    }

    #[test]
    fn answers_that_are_out_of_step_end_the_connection() {
        let push = Value::Push { kind: redis::PushKind::Invalidate, data: Vec::new() };
        let mixed = Value::Array(vec![push, Value::Int(1)]);
        for exec in [mixed, error("NOPERM x"), Value::Nil, Value::Array(vec![Value::Int(1)])] {
            let replies = vec![okay(), okay(), queued(), queued(), exec];
            assert_eq!(in_transaction(replies).expect_err("out of step").kind(), ErrorKind::Io);
        }
    }
}
