//! A client of the SDK, set up for a bucket.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::ProvideRegion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::DEFAULT_REGION;
use super::address::Address;
use crate::{Error, Result, StorageConfig};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// Idle connections are closed before most servers do it, so that a request seldom meets one that is closing.
const IDLE: Duration = Duration::from_secs(50);
/// Idle connections that are kept.
const MAX_IDLE: usize = 64;

/// Who signs the requests.
enum Signer {
    Nobody,
    Keys(Credentials),
    /// What the AWS tools would use: environment, profile, web identity, container or instance.
    DefaultChain,
}

impl Signer {
    fn of(config: &StorageConfig) -> Result<Self> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        match (given(&config.access_key), given(&config.secret_key)) {
            (None, None) => Ok(Self::DefaultChain),
            (Some(access), _) if access == "anonymous" => Ok(Self::Nobody),
            (Some(access), Some(secret)) => {
                let token = given(&config.session_token);
                Ok(Self::Keys(Credentials::new(access, secret, token, None, "volume")))
            }
            (Some(_), None) => Err(missing("secret-key", "access-key is given without it")),
            (None, Some(_)) => Err(missing("access-key", "secret-key is given without it")),
        }
    }
}

fn missing(field: &'static str, why: &str) -> Error {
    Error::Config { field, value: String::new(), why: why.to_owned() }
}

/// The region that requests are signed for.
pub(super) async fn region(address: &Address) -> String {
    if let Some(region) = &address.region {
        return region.clone();
    }
    let environment = EnvironmentVariableRegionProvider::new().region().await;
    environment.map_or_else(|| DEFAULT_REGION.to_owned(), |region| region.to_string())
}

/// A client for `address`. Sends nothing.
pub(super) async fn connect(address: &Address, region: &str, config: &StorageConfig) -> Result<Client> {
    let signer = Signer::of(config)?;
    let http = http(tls(address, &signer).await?);
    let region = Region::new(region.to_owned());
    let builder = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(&address.endpoint)
        .region(region.clone())
        .force_path_style(!address.virtual_host)
        .http_client(http.clone())
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    let builder = match signer {
        Signer::Nobody => builder.allow_no_auth(),
        Signer::Keys(keys) => builder.credentials_provider(keys),
        Signer::DefaultChain => {
            let loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http).region(region);
            let mut builder = builder;
            builder.set_credentials_provider(loader.load().await.credentials_provider());
            builder
        }
    };
    Ok(Client::from_conf(builder.build()))
}

fn http(tls: TlsContext) -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls)
        .build_https()
}

/// Whom to trust. Plain http needs nobody, and reading the system's authorities takes time.
async fn tls(address: &Address, signer: &Signer) -> Result<TlsContext> {
    let needs_roots = address.is_tls() || matches!(signer, Signer::DefaultChain);
    let mut trust = TrustStore::empty().with_native_roots(needs_roots);
    if let Some(path) = &address.ca_certs {
        let wrong = |why: String| Error::Config { field: "ca-certs", value: path.display().to_string(), why };
        let pem = tokio::fs::read(path).await.map_err(|error| wrong(error.to_string()))?;
        check_certificates(&pem).map_err(wrong)?;
        trust.add_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(trust).build();
    context.map_err(|error| missing("ca-certs", &error.to_string()))
}

/// The SDK panics on what is no certificate.
fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("not a certificate: {error}"))?;
    }
    if roots.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(access: &str, secret: &str) -> StorageConfig {
        let (access_key, secret_key) = (Some(access.to_owned()), Some(secret.to_owned()));
        StorageConfig { access_key, secret_key, ..StorageConfig::default() }
    }

    #[test]
    fn keys_choose_the_signer() {
        assert!(matches!(Signer::of(&keys("", "")), Ok(Signer::DefaultChain)));
        assert!(matches!(Signer::of(&StorageConfig::default()), Ok(Signer::DefaultChain)));
        assert!(matches!(Signer::of(&keys("anonymous", "")), Ok(Signer::Nobody)));
        assert!(matches!(Signer::of(&keys("a", "s")), Ok(Signer::Keys(_))));
        let error = Signer::of(&keys("a", "")).err().unwrap().to_string();
        assert!(error.contains("secret-key"), "{error}");
        let error = Signer::of(&keys("", "s3cr3t")).err().unwrap().to_string();
        assert!(error.contains("access-key") && !error.contains("s3cr3t"), "{error}");
    }

    #[test]
    fn files_without_certificates_are_refused() {
        check_certificates(b"").unwrap_err();
        check_certificates(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap_err();
    }
}
