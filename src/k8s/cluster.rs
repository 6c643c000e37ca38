//! The way to the API server.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};

use crate::error::{Error, Result, chain};

const CONNECT: Duration = Duration::from_secs(5);
/// How long a request may take, with those of its repeats that the client makes.
const ANSWER: Duration = Duration::from_secs(15);

/// A cluster that we may ask for something.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster that a kubeconfig file names, or the one that this process is in a pod of. Asks nobody yet. To be called
    /// within a runtime.
    ///
    /// # Errors
    /// [`Error::Access`]: no such file, or nothing that a pod would have.
    pub async fn connect(kubeconfig: Option<&Path>) -> Result<Self> {
        let denied = |why: String| Error::Access { why };
        let mut config = match kubeconfig {
            Some(path) => {
                let named = |error| denied(format!("{}: {}", path.display(), chain(&error)));
                let file = Kubeconfig::read_from(path).map_err(named)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(named)?
            }
            None => {
                let outside = |error| denied(format!("not in a pod, and no kubeconfig is given ({})", chain(&error)));
                Config::incluster().map_err(outside)?
            }
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(ANSWER);
        config.write_timeout = Some(ANSWER);
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| denied(chain(&error)))?;
        Ok(Self { client, namespace })
    }

    /// The namespace that this process is in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// Waits for an answer, not for ever. `what` is asked for, in words.
pub(crate) async fn ask<T>(what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(answer) => answer.map_err(|error| Error::of(what, &error)),
        Err(_elapsed) => Err(Error::Away { what: what.to_owned(), why: format!("no answer within {ANSWER:?}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrong_file_is_named() {
        let error = Cluster::connect(Some(Path::new("/nowhere/config"))).await.expect_err("no file").to_string();
        assert!(error.contains("no access to a cluster: ") && error.contains("/nowhere/config"), "{error}");
    }

    #[tokio::test]
    async fn outside_of_a_pod_there_is_no_cluster() {
        let error = Cluster::connect(None).await.expect_err("not in a pod");
        assert!(matches!(error, Error::Access { .. }), "{error}");
    }
}
