//! The connection: one for all operations at the same time, made anew when it is lost.
//!
//! [`Link::send`] makes one attempt and says what a failure means; [`Link::query`] and [`Link::eval`] repeat until the
//! retry time is over, which is right for everything that may be done twice.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisResult, Value};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::fault::{self, Fault, Patience};
use super::locate::Locator;
use super::script::{self, Script};
use super::seeds::Seeds;
use super::tracking::{self, Tracking};
use super::watched::{self, Watched};
use crate::error::{Error, Result};
use crate::url::{ClientCache, ConnectOptions, RedisTuning, RedisUrl};

/// Commands that wait for being written; more wait in their tasks.
const PIPELINE: usize = 1024;

/// A server and the connection to it.
#[derive(Debug)]
pub(super) struct Link {
    locator: Arc<Locator>,
    config: AsyncConnectionConfig,
    tuning: RedisTuning,
    engine: String,
    retry_for: Duration,
    tracking: Option<Arc<Tracking>>,
    state: Mutex<State>,
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Connected>,
    made: u64,
    /// The last attempt to connect that failed, so that those who waited for it need not try themselves.
    failed: Option<(Instant, Error)>,
}

#[derive(Clone, Debug)]
struct Connected {
    number: u64,
    connection: MultiplexedConnection,
}

impl Link {
    /// Makes the first connection, without a second try.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Denied`], or [`Error::Address`] for a database that the server does not have.
    pub(super) async fn open(url: &RedisUrl, options: &ConnectOptions, seeds: &Arc<Seeds>) -> Result<Self> {
        let tuning = url.tuning.clone();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(tuning.dial_timeout.unwrap_or(options.connect_timeout)))
            .set_response_timeout(Some(tuning.read_timeout))
            .set_pipeline_buffer_size(PIPELINE);
        let mut locator = Locator::new(url).await?;
        locator.recognise_cluster(&config).await.map_err(Fault::into_error)?;
        let tracking = (tuning.client_cache != ClientCache::Off).then(|| {
            let (prefix, expire) = (locator.prefix(), tuning.client_cache_expire);
            Arc::new(Tracking::new(tuning.client_cache, prefix, expire, Arc::clone(seeds)))
        });
        let link = Self {
            tracking,
            locator: Arc::new(locator),
            config,
            tuning,
            engine: url.to_string(),
            retry_for: options.retry_for,
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        };
        link.connected().await.map_err(Fault::into_error)?;
        Ok(link)
    }

    /// The server's address without secrets.
    pub(super) fn engine(&self) -> &str {
        &self.engine
    }

    /// Where the server is.
    pub(super) fn locator(&self) -> &Arc<Locator> {
        &self.locator
    }

    /// What the server tells of changes, if it does.
    pub(super) fn tracking(&self) -> Option<&Tracking> {
        self.tracking.as_deref()
    }

    /// For a caller that repeats itself.
    pub(super) fn patience(&self) -> Patience {
        Patience::new(self.retry_for, self.tuning.min_backoff, self.tuning.max_backoff)
    }

    /// An answer that is not what the command gives.
    pub(super) fn unexpected(&self, why: impl std::fmt::Display) -> Error {
        Error::Engine { engine: self.engine.clone(), why: format!("unexpected reply: {why}") }
    }

    /// Sends a command once.
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, Fault> {
        Ok(self.send_numbered(command).await?.0)
    }

    /// The same with the number of the connection.
    async fn send_numbered(&self, command: &Cmd) -> Result<(Value, u64), Fault> {
        let mut at = self.connected().await?;
        let asked = Instant::now();
        let sent = at.connection.send_packed_command(command).await;
        let reply = self.answered(at.number, asked, sent.and_then(Value::extract_error))?;
        Ok((reply, at.number))
    }

    /// Sends a command once, and has the server tell of the keys that it reads.
    async fn send_watched(&self, command: Cmd) -> Result<Watched, Fault> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.add_command(tracking::caching()).add_command(command);
        let mut at = self.connected().await?;
        let asked = Instant::now();
        let sent = at.connection.send_packed_commands(&pipeline, 0, pipeline.len()).await;
        self.answered(at.number, asked, sent.and_then(watched::after_caching))
    }

    /// Takes note of what an answer, or that there was none, says about the connection.
    fn answered<T>(&self, number: u64, asked: Instant, reply: RedisResult<T>) -> Result<T, Fault> {
        if let (Ok(_answer), Some(tracking)) = (&reply, &self.tracking) {
            tracking.heard(asked);
        }
        reply.map_err(|error| {
            let fault = Fault::of(&self.engine, &error);
            if matches!(fault, Fault::Unknown(_)) || fault::is_elsewhere(&error) {
                self.lost(number, &error);
            }
            fault
        })
    }

    /// Calls a script once; `fill` adds its arguments.
    pub(super) async fn send_script(
        &self,
        script: &Script,
        keys: &[&[u8]],
        fill: impl Fn(&mut Cmd),
    ) -> Result<Value, Fault> {
        let send = async |mut call: Cmd| {
            fill(&mut call);
            self.send(&call).await
        };
        match send(script.call(keys)).await {
            Err(Fault::NoScript) => send(script.call_with_source(keys)).await,
            reply => reply,
        }
    }

    /// The same; if it `is_to_tell`, the server tells from then on of changes of the keys that the script reads last.
    pub(super) async fn send_script_and_watch(
        &self,
        script: &Script,
        keys: &[&[u8]],
        fill: impl Fn(&mut Cmd),
        is_to_tell: bool,
    ) -> Result<Watched, Fault> {
        if !is_to_tell {
            let answer = self.send_script(script, keys, fill).await?;
            return Ok(Watched { answer, is_told: false });
        }
        let send = async |mut call: Cmd| {
            fill(&mut call);
            self.send_watched(call).await
        };
        match send(script.call(keys)).await {
            Err(Fault::NoScript) => send(script.call_with_source(keys)).await,
            reply => reply,
        }
    }

    /// Calls a script that may run twice until there is an answer, and has the server tell of the keys that it declares.
    /// Whether it will.
    pub(super) async fn eval_watched<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&[u8]],
        fill: impl Fn(&mut Cmd),
    ) -> Result<(T, bool)> {
        let mut patience = self.patience();
        loop {
            let mut call = script.call(keys);
            fill(&mut call);
            let mut reply = self.send_watched(call).await;
            if let Err(Fault::NoScript) = reply {
                let mut call = script.call_with_source(keys);
                fill(&mut call);
                reply = self.send_watched(call).await;
            }
            match reply {
                Ok(Watched { answer, is_told }) => return Ok((self.read(answer)?, is_told)),
                Err(fault) => again(fault, &mut patience).await?,
            }
        }
    }

    /// The same for a command.
    pub(super) async fn query_watched<T: FromRedisValue>(&self, command: &Cmd) -> Result<(T, bool)> {
        let mut patience = self.patience();
        loop {
            match self.send_watched(command.clone()).await {
                Ok(Watched { answer, is_told }) => return Ok((self.read(answer)?, is_told)),
                Err(fault) => again(fault, &mut patience).await?,
            }
        }
    }

    /// Sends a command that may be done twice until there is an answer.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        Ok(self.query_numbered(command).await?.0)
    }

    /// The same with the number of the connection that brought the answer: what one server has said may mean nothing to
    /// another.
    pub(super) async fn query_numbered<T: FromRedisValue>(&self, command: &Cmd) -> Result<(T, u64)> {
        let mut patience = self.patience();
        loop {
            match self.send_numbered(command).await {
                Ok((reply, number)) => return Ok((self.read(reply)?, number)),
                Err(fault) => again(fault, &mut patience).await?,
            }
        }
    }

    /// Calls a script that may run twice until there is an answer.
    pub(super) async fn eval<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&[u8]],
        fill: impl Fn(&mut Cmd),
    ) -> Result<T> {
        let mut patience = self.patience();
        loop {
            match self.send_script(script, keys, &fill).await {
                Ok(reply) => return self.read(reply),
                Err(fault) => again(fault, &mut patience).await?,
            }
        }
    }

    fn read<T: FromRedisValue>(&self, reply: Value) -> Result<T> {
        T::from_redis_value(reply).map_err(|error| self.unexpected(error))
    }

    /// The connection, made anew if it was lost.
    async fn connected(&self) -> Result<Connected, Fault> {
        let since = Instant::now();
        if let Some(current) = &self.state.lock().current {
            return Ok(current.clone());
        }
        let _one_at_a_time = self.connecting.lock().await;
        {
            let state = self.state.lock();
            if let Some(current) = &state.current {
                return Ok(current.clone());
            }
            if let Some((_at, why)) = state.failed.as_ref().filter(|(at, _why)| *at >= since) {
                return Err(Fault::NotDone(why.clone()));
            }
        }
        let number = self.state.lock().made + 1;
        let made = self.connect(number).await;
        let mut state = self.state.lock();
        match made {
            Ok(connection) => {
                state.made += 1;
                if state.made > 1 {
                    info!(engine = self.engine, "connected again");
                }
                Ok(state.current.insert(Connected { number, connection }).clone())
            }
            Err(fault) => {
                let again = state.made > 0;
                let error = fault.into_error();
                state.failed = Some((Instant::now(), error.clone()));
                // Once it has worked, a refusal may pass too: a password that is being changed, a server's start.
                Err(if again { Fault::NotDone(error) } else { Fault::Final(error) })
            }
        }
    }

    async fn connect(&self, number: u64) -> Result<MultiplexedConnection, Fault> {
        let explain = |error| Fault::of_connecting(&self.engine, &self.engine, &error);
        let mut connection = match &self.tracking {
            None => self.locator.connect(&self.config).await?,
            Some(tracking) => match self.connect_tracked(tracking, number, explain).await {
                Err(Fault::Final(why)) if tracking.is_optional() => {
                    debug!(engine = self.engine, %why, "the server does not tell of changes");
                    tracking.end();
                    self.locator.connect(&self.config).await?
                }
                connected => connected?,
            },
        };
        for script in script::all() {
            let loaded = connection.send_packed_command(&script.load()).await;
            match loaded.and_then(Value::extract_error).map_err(explain) {
                Ok(_digest) => {}
                Err(Fault::NotDone(why)) => {
                    debug!(engine = self.engine, %why, "not ready for scripts yet");
                    break;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(connection)
    }

    async fn connect_tracked(
        &self,
        tracking: &Arc<Tracking>,
        number: u64,
        explain: impl Fn(redis::RedisError) -> Fault,
    ) -> Result<MultiplexedConnection, Fault> {
        let told = Arc::clone(tracking);
        let config = self.config.clone().set_push_sender(move |push| {
            told.take(number, push);
            Ok::<(), Infallible>(())
        });
        let mut connection = self.locator.connect_to_listen(&config).await?;
        if tracking.is_optional() {
            let info = connection.send_packed_command(redis::cmd("INFO").arg("server")).await;
            let info = info.and_then(Value::extract_error).map_err(&explain)?;
            let info = String::from_redis_value(info).unwrap_or_default();
            tracking::check_version(&info).map_err(|why| self.not_told(why))?;
        }
        let on = connection.send_packed_command(&tracking.command()).await;
        on.and_then(Value::extract_error).map_err(&explain)?;
        if tracking.is_optional() {
            // Who may have it tell may not be allowed to say of what.
            let mut pipeline = Pipeline::with_capacity(2);
            pipeline.add_command(tracking::caching()).cmd("EXISTS").arg(tracking.some_key());
            let replies = connection.send_packed_commands(&pipeline, 0, pipeline.len()).await;
            if !replies.and_then(watched::after_caching).map_err(&explain)?.is_told {
                return Err(self.not_told("CLIENT CACHING is refused".to_owned()));
            }
        }
        tracking.begin(number);
        if tracking.is_optional() {
            let at = Instant::now();
            let config = connection.send_packed_command(&tracking::ask_limit()).await.ok();
            let stats = connection.send_packed_command(redis::cmd("INFO").arg("stats")).await;
            tracking.learn_room(&stats.and_then(Value::extract_error).map_err(explain)?, config, at);
        }
        Ok(connection)
    }

    fn not_told(&self, why: String) -> Fault {
        Fault::Final(Error::Engine { engine: self.engine.clone(), why })
    }

    fn lost(&self, number: u64, error: &redis::RedisError) {
        if let Some(tracking) = &self.tracking {
            tracking.ended(number);
        }
        let mut state = self.state.lock();
        if state.current.as_ref().is_some_and(|current| current.number == number) {
            state.current = None;
            warn!(engine = self.engine, why = %error, "connection lost");
        }
    }
}

/// Pauses before another try if that can help.
pub(super) async fn again(fault: Fault, patience: &mut Patience) -> Result<()> {
    match fault {
        Fault::NotDone(why) | Fault::Unknown(why) => patience.pause(why).await,
        fault @ (Fault::Final(_) | Fault::NoScript) => Err(fault.into_error()),
    }
}
