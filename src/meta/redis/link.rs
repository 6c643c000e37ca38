//! The connection: one for all operations at the same time, made anew when it is lost.
//!
//! [`Link::send`] makes one attempt and says what a failure means; [`Link::query`] and [`Link::eval`] repeat until the
//! retry time is over, which is right for everything that may be done twice.

use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo, RedisConnectionInfo, TlsCertificates, Value,
};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::fault::{Fault, Patience};
use super::script::{self, Script};
use crate::error::{Error, Result};
use crate::url::{ConnectOptions, RedisServers, RedisTls, RedisUrl};

/// How long the server may take for one command.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Commands that wait for being written; more wait in their tasks.
const PIPELINE: usize = 1024;

/// A server and the connection to it.
#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    config: AsyncConnectionConfig,
    engine: String,
    retry_for: Duration,
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
    pub(super) async fn open(url: &RedisUrl, options: &ConnectOptions) -> Result<Self> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(options.connect_timeout))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_pipeline_buffer_size(PIPELINE);
        let link = Self {
            client: client(url).await?,
            config,
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

    /// For a caller that repeats itself.
    pub(super) fn patience(&self) -> Patience {
        Patience::new(self.retry_for)
    }

    /// An answer that is not what the command gives.
    pub(super) fn unexpected(&self, why: impl std::fmt::Display) -> Error {
        Error::Engine { engine: self.engine.clone(), why: format!("unexpected reply: {why}") }
    }

    /// Sends a command once.
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, Fault> {
        let mut at = self.connected().await?;
        let sent = at.connection.send_packed_command(command).await;
        let reply = sent.and_then(Value::extract_error);
        reply.map_err(|error| {
            let fault = Fault::of(&self.engine, &error);
            // A server that became a replica may have a successor behind the same name.
            if matches!(fault, Fault::Unknown(_)) || error.code() == Some("READONLY") {
                self.lost(at.number, &error);
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
        let mut call = script.call(keys);
        fill(&mut call);
        match self.send(&call).await {
            Err(Fault::NoScript) => {
                let mut call = script.call_with_source(keys);
                fill(&mut call);
                self.send(&call).await
            }
            reply => reply,
        }
    }

    /// Sends a command that may be done twice until there is an answer.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let mut patience = self.patience();
        loop {
            match self.send(command).await {
                Ok(reply) => return self.read(reply),
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
        let made = self.connect().await;
        let mut state = self.state.lock();
        match made {
            Ok(connection) => {
                state.made += 1;
                if state.made > 1 {
                    info!(engine = self.engine, "connected again");
                }
                let number = state.made;
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

    async fn connect(&self) -> Result<MultiplexedConnection, Fault> {
        let explain = |error| Fault::of_connecting(&self.engine, &self.engine, &error);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&self.config);
        let mut connection = connecting.await.map_err(explain)?;
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

    fn lost(&self, number: u64, error: &redis::RedisError) {
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

async fn client(url: &RedisUrl) -> Result<Client> {
    let wrong = |why: String| Error::Address { address: url.to_string(), why };
    let mut login = RedisConnectionInfo::default().set_db(url.db.into());
    if let Some(user) = &url.user {
        login = login.set_username(user);
    }
    if let Some(password) = &url.password {
        login = login.set_password(password);
    }
    let explain = |error: redis::RedisError| wrong(error.to_string());
    let info = address(url)?.into_connection_info().map_err(explain)?.set_redis_settings(login);
    match &url.tls {
        None => Client::open(info),
        Some(tls) => secure(info, tls, wrong).await?,
    }
    .map_err(explain)
}

fn address(url: &RedisUrl) -> Result<ConnectionAddr> {
    Ok(match &url.servers {
        RedisServers::Socket { path } => ConnectionAddr::Unix(path.clone()),
        RedisServers::Single { host, port } => match &url.tls {
            None => ConnectionAddr::Tcp(host.clone(), *port),
            Some(tls) => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: tls.insecure, tls_params: None }
            }
        },
        RedisServers::Sentinel { .. } => {
            return Err(Error::NotSupported { what: "Redis through Sentinel" });
        }
        RedisServers::Cluster { .. } => {
            return Err(Error::NotSupported { what: "a Redis cluster" });
        }
    })
}

async fn secure(
    info: ConnectionInfo,
    tls: &RedisTls,
    wrong: impl Fn(String) -> Error,
) -> Result<redis::RedisResult<Client>> {
    if tls.server_name.is_some() {
        return Err(Error::NotSupported { what: "tls-server-name: a certificate for another name than the host's" });
    }
    // An error only says that the process has a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = async |path: &std::path::PathBuf| {
        let content = tokio::fs::read(path).await;
        content.map_err(|error| wrong(format!("{}: {error}", path.display())))
    };
    let root_cert = match &tls.ca_file {
        Some(path) => Some(read(path).await?),
        None => None,
    };
    let client_tls = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read(cert).await?, client_key: read(key).await? })
        }
        _ => None,
    };
    Ok(if root_cert.is_none() && client_tls.is_none() {
        Client::open(info)
    } else {
        Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
    })
}
