//! Bucket addresses as a Format has them (format.md §8).

use std::path::PathBuf;

use url::{Host, Url};

use crate::{Error, Result};

/// What is said of an address that names no bucket.
const FORMS: &str = "expected http(s)://endpoint/bucket or https://bucket.s3.region.amazonaws.com";

/// What a bucket address says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Scheme, host and port of the server, without the bucket.
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    /// What the host says of it.
    pub(crate) region: Option<String>,
    /// Send the bucket in the host's name instead of the path.
    pub(crate) virtual_host: bool,
    /// A PEM file with authorities to trust besides the system's.
    pub(crate) ca_certs: Option<PathBuf>,
}

impl Address {
    /// Reads `https://bucket.s3.region.amazonaws.com`, `https://s3.region.amazonaws.com/bucket`,
    /// `http(s)://endpoint/bucket` or `http(s)://bucket.endpoint`. Without a scheme, hosts of Amazon's and names
    /// without a dot mean https, others http; `plain` makes that http for all. A bare name is a bucket of Amazon's.
    ///
    /// # Errors
    /// [`Error::Config`] that names the address and what is wrong with it.
    pub(crate) fn parse(text: &str, plain: bool) -> Result<Self> {
        let url = Url::parse(&with_scheme(text, plain)).map_err(|error| wrong(text, &error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(text, FORMS));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(text, "keys do not belong into it; give them as access-key and secret-key"));
        }
        let mut address = Self::place(&url).ok_or_else(|| wrong(text, FORMS))?;
        if !is_bucket_name(&address.bucket) {
            return Err(wrong(text, &format!("{:?} cannot be a bucket's name", address.bucket)));
        }
        address.options(&url).map_err(|why| wrong(text, &why))?;
        Ok(address)
    }

    /// `None` if there is no bucket in it, or more than a bucket.
    fn place(url: &Url) -> Option<Self> {
        let path = url.path().trim_matches('/');
        let host = url.host()?;
        let name = host.to_string();
        if let Some(amazon) = Amazon::of(&name) {
            let bucket = if path.is_empty() { amazon.bucket? } else { path };
            let host = if path.is_empty() { amazon.endpoint } else { &name };
            return Some(Self::new(url, host, bucket, amazon.region));
        }
        if !path.is_empty() {
            return Some(Self::new(url, &name, path, None));
        }
        let Host::Domain(domain) = host else { return None };
        match domain.split_once('.') {
            Some((bucket, endpoint)) => Some(Self::new(url, endpoint, bucket, None)),
            None => Some(Self::new(url, "s3.amazonaws.com", domain, None)),
        }
    }

    fn new(url: &Url, host: &str, bucket: &str, region: Option<&str>) -> Self {
        let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
        Self {
            endpoint: format!("{}://{host}{port}", url.scheme()),
            bucket: bucket.to_owned(),
            region: region.map(str::to_owned),
            virtual_host: false,
            ca_certs: None,
        }
    }

    /// The options that a bucket URL may carry.
    fn options(&mut self, url: &Url) -> Result<(), String> {
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "ca-certs" => self.ca_certs = Some(PathBuf::from(value.as_ref())),
                "virtual-host" => self.virtual_host = is_true(&value),
                // We send neither.
                "disable-100-continue" | "disable-checksum" => (),
                "tls-insecure-skip-verify" if !is_true(&value) => (),
                "tls-insecure-skip-verify" => {
                    return Err("tls-insecure-skip-verify is not possible; trust its authority by ca-certs".to_owned());
                }
                "ssl-cert" | "ssl-key" => return Err(format!("{name}: client certificates are not supported")),
                _ => return Err(format!("unknown option {name}; known are ca-certs and virtual-host")),
            }
        }
        Ok(())
    }

    /// Whether requests go over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.endpoint.starts_with("https:")
    }

    /// For messages.
    pub(crate) fn describe(&self) -> String {
        let host = self.endpoint.split_once("://").map_or("", |(_scheme, host)| host);
        format!("s3://{host}/{}/", self.bucket)
    }
}

fn wrong(text: &str, why: &str) -> Error {
    Error::Config { field: "bucket", value: without_password(text), why: why.to_owned() }
}

/// An address for messages: what stands before an `@` may be a password.
pub(crate) fn without_password(address: &str) -> String {
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://****@{rest}"),
        (None, Some((_, rest))) => format!("****@{rest}"),
        (_, None) => address.to_owned(),
    }
}

fn with_scheme(text: &str, plain: bool) -> String {
    if text.contains("://") {
        return text.to_owned();
    }
    let host = text.split(['/', ':', '?']).next().unwrap_or_default();
    let is_secure = host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn") || !host.contains('.');
    format!("{}://{text}", if is_secure && !plain { "https" } else { "http" })
}

fn is_true(value: &str) -> bool {
    matches!(value, "" | "1" | "t" | "true" | "True" | "TRUE")
}

fn is_bucket_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(is_allowed)
}

/// A host name of Amazon's.
struct Amazon<'a> {
    /// What stands before the service's name.
    bucket: Option<&'a str>,
    endpoint: &'a str,
    region: Option<&'a str>,
}

impl<'a> Amazon<'a> {
    /// `[bucket.]s3[.dualstack][.region].amazonaws.com[.cn]`, or `s3-region` in one word.
    fn of(host: &'a str) -> Option<Self> {
        let stem = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
        let is_service = |at: &usize| {
            let rest = &stem[*at..];
            rest == "s3" || rest.starts_with("s3.") || rest.starts_with("s3-")
        };
        let mut starts = std::iter::once(0).chain(stem.match_indices('.').map(|(dot, _)| dot + 1));
        let service = starts.rfind(is_service)?;
        let rest = stem[service..].trim_start_matches("s3").trim_start_matches(['.', '-']);
        let rest = rest.strip_prefix("dualstack.").unwrap_or(rest);
        let region = rest.split('.').next().filter(|region| !region.is_empty());
        let bucket = (service > 0).then(|| &stem[..service - 1]);
        Some(Self { bucket, endpoint: &host[service..], region })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String, Option<String>) {
        let address = Address::parse(text, false).expect(text);
        (address.endpoint, address.bucket, address.region)
    }

    #[test]
    fn addresses_of_every_form_are_read() {
        let cases = [
            ("https://b.s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com", "b", "eu-west-1"),
            ("https://b.s3-us-west-2.amazonaws.com/", "https://s3-us-west-2.amazonaws.com", "b", "us-west-2"),
            ("b.s3.x.c.s3.amazonaws.com", "https://s3.amazonaws.com", "b.s3.x.c", ""),
            ("https://s3.eu-west-1.amazonaws.com/b", "https://s3.eu-west-1.amazonaws.com", "b", "eu-west-1"),
            ("https://s3.cn-north-1.amazonaws.com.cn/b", "https://s3.cn-north-1.amazonaws.com.cn", "b", "cn-north-1"),
            (
                "b.s3.dualstack.eu-west-1.amazonaws.com",
                "https://s3.dualstack.eu-west-1.amazonaws.com",
                "b",
                "eu-west-1",
            ),
            ("http://127.0.0.1:9000/b", "http://127.0.0.1:9000", "b", ""),
            ("127.0.0.1:9000/b", "http://127.0.0.1:9000", "b", ""),
            ("http://[::1]:9000/b", "http://[::1]:9000", "b", ""),
            ("https://minio.example/b/", "https://minio.example", "b", ""),
            ("minio.example/b", "http://minio.example", "b", ""),
            ("localhost:9000/b", "https://localhost:9000", "b", ""),
            ("https://b.minio.example:9000", "https://minio.example:9000", "b", ""),
            ("just-a-bucket", "https://s3.amazonaws.com", "just-a-bucket", ""),
        ];
        for (text, endpoint, bucket, region) in cases {
            let region = (!region.is_empty()).then(|| region.to_owned());
            assert_eq!(parsed(text), (endpoint.to_owned(), bucket.to_owned(), region), "{text}");
        }
        assert_eq!(Address::parse("minio:9000/b", true).unwrap().endpoint, "http://minio:9000");
    }

    #[test]
    fn an_address_that_cannot_be_right_is_named() {
        let cases = [
            ("http://127.0.0.1:9000", "expected http"),
            ("ftp://host/bucket", "expected http"),
            ("https://s3.amazonaws.com", "expected http"),
            ("http://", "empty host"),
            ("", "empty host"),
            ("http://host/bucket/more", "cannot be a bucket's name"),
            ("http://host/buck et", "cannot be a bucket's name"),
            ("http://host/b%d", "cannot be a bucket's name"),
            ("http://host/b?tls-insecure-skip-verify=true", "ca-certs"),
            ("http://host/b?ssl-cert=/x", "not supported"),
            ("http://host/b?regoin=x", "unknown option regoin"),
        ];
        for (text, expected) in cases {
            let error = Address::parse(text, false).expect_err(text).to_string();
            assert!(error.contains(expected) && error.contains(&format!("bucket {text:?}")), "{error}");
        }
    }

    #[test]
    fn passwords_in_addresses_are_refused_and_hidden() {
        let error = Address::parse("http://key:hunter2@host/b", false).unwrap_err().to_string();
        assert!(error.contains("access-key") && !error.contains("hunter2"), "{error}");
        let error = Address::parse("ftp://key:hun@ter2@host/b", false).unwrap_err().to_string();
        assert!(!error.contains("hun"), "{error}");
    }

    #[test]
    fn options_of_the_address_are_read() {
        let address =
            Address::parse("https://h.x/b?ca-certs=/ca.pem&virtual-host=true&disable-checksum=1", false).unwrap();
        assert_eq!((address.ca_certs, address.virtual_host), (Some(PathBuf::from("/ca.pem")), true));
    }
}
