//! Claims: what their labels and annotations say.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use stead_volume::{Claim, ClaimMetadata};

use crate::cluster::{Cluster, ask};
use crate::error::Result;

/// Reads claims.
#[derive(Clone, Debug)]
pub struct Claims {
    cluster: Cluster,
}

impl Claims {
    /// Those of this cluster, in all namespaces.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }

    /// What a claim says as of now, in one request.
    ///
    /// # Errors
    /// [`crate::Error::Refused`]: there is no such claim, or we may not look. [`crate::Error::Away`].
    pub async fn read(&self, claim: &Claim) -> Result<ClaimMetadata> {
        let api = self.cluster.api::<PersistentVolumeClaim>(&claim.namespace);
        // Boxed: futures of the client are large.
        let found = ask(&format!("show claim {claim}"), Box::pin(api.get_metadata(&claim.name))).await?;
        Ok(ClaimMetadata {
            claim: claim.clone(),
            labels: found.metadata.labels.unwrap_or_default(),
            annotations: found.metadata.annotations.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Error;
    use crate::fake::ApiServer;

    fn claim(name: &str) -> Claim {
        Claim { namespace: "team".to_owned(), name: name.to_owned() }
    }

    #[tokio::test]
    async fn labels_and_annotations_are_read() {
        let server = ApiServer::start().await;
        let collection = "/api/v1/namespaces/team/persistentvolumeclaims";
        let labels = json!({"app.kubernetes.io/name": "web"});
        server.add(collection, json!({"metadata": {"name": "data", "labels": labels, "annotations": {"a": "b"}}}));
        server.add(collection, json!({"metadata": {"name": "bare"}}));
        let claims = Claims::new(server.cluster().await);
        let said = claims.read(&claim("data")).await.expect("there");
        assert_eq!((said.labels["app.kubernetes.io/name"].as_str(), said.annotations["a"].as_str()), ("web", "b"));
        let bare = claims.read(&claim("bare")).await.expect("there");
        assert!(bare.labels.is_empty() && bare.annotations.is_empty());
    }

    #[tokio::test]
    async fn why_a_claim_cannot_be_read_is_said() {
        let server = ApiServer::start().await;
        let claims = Claims::new(server.cluster().await);
        let missing = claims.read(&claim("none")).await.expect_err("not there");
        assert!(matches!(missing, Error::Refused { .. }), "{missing}");
        assert!(missing.to_string().contains("show claim team/none: there is no such object"), "{missing}");
        server.forbid("persistentvolumeclaims");
        let forbidden = claims.read(&claim("none")).await.expect_err("forbidden").to_string();
        assert!(forbidden.contains("this is forbidden"), "{forbidden}");
        server.stop();
        let away = claims.read(&claim("none")).await.expect_err("away");
        assert!(matches!(away, Error::Away { .. }), "{away}");
    }
}
