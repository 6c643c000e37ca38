//! A volume as an operator's command works with it.

use std::sync::Arc;
use std::time::Duration;

use stead_base::Clock;
use stead_meta::format::Format;
use stead_meta::ops::{Meta, MetaOptions};
use stead_meta::store::Store;
use stead_meta::url::{ConnectOptions, MetaUrl, connect};
use stead_object::ObjectStore;
use stead_volume::Secret;

use crate::error::Result;

/// An engine and the Format in it.
#[derive(Debug)]
pub struct Opened {
    /// The engine.
    pub store: Arc<dyn Store>,
    /// What is stored there, its secrets as they are stored.
    pub format: Format,
    /// Where "now" comes from.
    pub clock: Arc<dyn Clock>,
    /// Opens the key of a volume that is encrypted at rest.
    pub passphrase: Option<Secret>,
}

impl Opened {
    /// Connects to an engine that holds a volume.
    ///
    /// # Errors
    /// Those of the engine; [`stead_meta::Error::NotFormatted`] if it holds no volume.
    pub async fn connect(url: &MetaUrl, clock: &Arc<dyn Clock>, passphrase: Option<Secret>) -> Result<Self> {
        let store = connect(url, &ConnectOptions::new(Arc::clone(clock))).await?;
        let format = Meta::load_format(&*store).await?;
        Ok(Self { store, format, clock: Arc::clone(clock), passphrase })
    }

    /// The metadata of the volume: no session, no background work.
    ///
    /// # Errors
    /// [`stead_meta::Error::Format`] if the volume refuses this client's version.
    pub async fn meta(&self, read_only: bool) -> Result<Arc<Meta>> {
        let options = MetaOptions {
            read_only,
            no_bgjob: true,
            enable_xattr: true,
            skip_dir_mtime: Duration::ZERO,
            clock: Arc::clone(&self.clock),
            ..MetaOptions::default()
        };
        Ok(Meta::new(Arc::clone(&self.store), self.format.clone(), options).await?)
    }

    /// The objects of the volume, below its prefix.
    ///
    /// # Errors
    /// A storage that the Format describes wrongly, or a secret that is lost.
    pub async fn objects(&self) -> Result<Arc<dyn ObjectStore>> {
        Ok(stead_volume::open_objects(&self.format, self.passphrase.as_ref()).await?)
    }
}
