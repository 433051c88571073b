//! What is asked of a registry. Logging in is the crate's; manifests and layers are read here, as it has no bounds for them.

use std::net::Ipv4Addr;
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use reqwest::{RequestBuilder, Response, StatusCode};

use super::{OciError, shown};
use crate::outcome::bounded;
use crate::wasm::Digest;

/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Docker Hub, as credentials name it.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Lets TLS connections of this process use ring, as all others do. Needed once before the first client is made; doing it
/// again changes nothing.
pub fn use_ring() {
    // An error says that it has been done.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A registry that has been logged in to, for one name.
pub(super) struct Registry {
    name: String,
    base: String,
    http: reqwest::Client,
    pass: Pass,
}

/// What requests carry.
enum Pass {
    Nothing,
    Token(String),
    Password(String, String),
}

impl Registry {
    /// Asks the registry how to log in, and does so with the credentials of `docker login`, or as anybody.
    pub(super) async fn open(reference: &Reference) -> Result<Registry, OciError> {
        use_ring();
        let name = reference.resolve_registry().to_owned();
        let is_local = is_loopback(&name);
        let unreachable = |error: &dyn std::error::Error| unreachable(&name, error);
        let builder = reqwest::Client::builder().connect_timeout(CONNECT_TIME).https_only(!is_local);
        let builder = if is_local { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(|error| unreachable(&error))?;
        let config = ClientConfig {
            protocol: if is_local { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIME),
            ..ClientConfig::default()
        };
        let credentials = credentials(&name)?;
        let client = Client::try_from(config).map_err(|error| unreachable(&error))?;
        let token = client.auth(reference, &credentials, RegistryOperation::Pull).await;
        let token = token.map_err(|error| match error {
            OciDistributionError::AuthenticationFailure(cause) => {
                OciError::Denied { registry: name.clone(), cause: bounded(cause.trim().escape_debug().to_string()) }
            }
            other => unreachable(&other),
        })?;
        let pass = match (token, credentials) {
            (Some(token), _) => Pass::Token(token),
            (None, RegistryAuth::Basic(user, password)) => Pass::Password(user, password),
            (None, _) => Pass::Nothing,
        };
        let scheme = if is_local { "http" } else { "https" };
        let base = format!("{scheme}://{name}/v2/{}", reference.repository());
        Ok(Registry { name, base, http, pass })
    }

    /// The bytes of a manifest, no more than `max`.
    pub(super) async fn manifest(&self, reference: &Reference, max: u64) -> Result<Vec<u8>, OciError> {
        let wanted = reference.digest().or(reference.tag()).unwrap_or("latest");
        let request = self.http.get(format!("{}/manifests/{wanted}", self.base));
        let request = request.header("accept", format!("{OCI_IMAGE_MEDIA_TYPE}, {IMAGE_MANIFEST_MEDIA_TYPE}"));
        let response = self.ask(request, || shown(reference)).await?;
        self.read(response, max).await?.ok_or_else(|| OciError::TooLarge {
            reference: shown(reference),
            what: "manifest",
            max,
        })
    }

    /// The bytes of a layer of this size.
    pub(super) async fn layer(&self, reference: &Reference, digest: &Digest, size: u64) -> Result<Vec<u8>, OciError> {
        let request = self.http.get(format!("{}/blobs/{digest}", self.base));
        let response = self.ask(request, || format!("layer {digest} of {}", shown(reference))).await?;
        // More than the manifest promises is not what was asked for.
        self.read(response, size).await?.ok_or_else(|| OciError::TooLarge {
            reference: shown(reference),
            what: "layer",
            max: size,
        })
    }

    async fn ask(&self, request: RequestBuilder, what: impl FnOnce() -> String) -> Result<Response, OciError> {
        let request = match &self.pass {
            Pass::Nothing => request,
            Pass::Token(token) => request.bearer_auth(token),
            Pass::Password(user, password) => request.basic_auth(user, Some(password)),
        };
        let response = request.send().await.map_err(|error| unreachable(&self.name, &error))?;
        let registry = self.name.clone();
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(OciError::Unknown { registry, what: what() }),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(OciError::Denied { registry, cause: status.to_string() })
            }
            status => Err(OciError::Answer { registry, cause: status.to_string() }),
        }
    }

    /// The body, unless it is longer than `max`.
    async fn read(&self, mut response: Response, max: u64) -> Result<Option<Vec<u8>>, OciError> {
        if response.content_length().is_some_and(|length| length > max) {
            return Ok(None);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&self.name, &error))? {
            if body.len() as u64 + chunk.len() as u64 > max {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }
}

/// The innermost cause: clients themselves say only where it happened.
fn unreachable(registry: &str, error: &dyn std::error::Error) -> OciError {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    OciError::Unreachable { registry: registry.to_owned(), cause: bounded(cause.to_string()) }
}

/// Whether a registry is on this machine: only there is HTTP spoken.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

/// The credentials that `docker login` has left, if it has.
fn credentials(registry: &str) -> Result<RegistryAuth, OciError> {
    let server = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
    let unusable = |cause: String| OciError::Credentials { registry: registry.to_owned(), cause: bounded(cause) };
    match docker_credential::get_credential(server) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(_)) => {
            Err(unusable("identity tokens are not supported; log in with a user and a password".to_owned()))
        }
        Err(
            CredentialRetrievalError::NoCredentialConfigured
            | CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError,
        ) => Ok(RegistryAuth::Anonymous),
        Err(error) => Err(unusable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_for_this_machine_alone() {
        assert!(["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.8.8"].into_iter().all(is_loopback));
        assert!(!["127.0.0.1.example", "localhost.example:80", "10.0.0.1:5000", "::1"].into_iter().any(is_loopback));
    }
}
