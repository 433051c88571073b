//! Where requests may go: scheme, host and port.

use std::fmt;
use std::net::IpAddr;

use http::Uri;

/// A text is not the address of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Not a URL at all.
    #[error("not a URL such as \"https://api.example.com\"")]
    NotAUrl,
    /// Neither `http` nor `https`.
    #[error("the scheme is neither http nor https")]
    Scheme,
    /// A user or a password in it.
    #[error("a user or password does not belong here")]
    User,
    /// A path or a query.
    #[error("only scheme, host and port can be allowed, not a path or a query")]
    Path,
    /// A `*` in the name of the host.
    #[error("hosts are named one by one, there are no wildcards")]
    Wildcard,
    /// A port that is none, or 0.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

/// Scheme, host and port: what a request is allowed by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Over TLS.
    pub(crate) secure: bool,
    /// In lower case; IPv6 addresses without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// Reads `https://api.example.com` or `http://127.0.0.1:8080`. Without a port it is that of the scheme.
    pub fn parse(text: &str) -> Result<Origin, OriginError> {
        let uri: Uri = text.parse().map_err(|_| OriginError::NotAUrl)?;
        if uri.host().is_some_and(|host| host.contains('*')) {
            return Err(OriginError::Wildcard);
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(OriginError::Path);
        }
        Origin::of(&uri)
    }

    /// Where a request to this URL goes.
    pub(crate) fn of(uri: &Uri) -> Result<Origin, OriginError> {
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err(OriginError::Scheme),
            None => return Err(OriginError::NotAUrl),
        };
        let authority = uri.authority().ok_or(OriginError::NotAUrl)?;
        if authority.as_str().contains('@') {
            return Err(OriginError::User);
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // What follows the host is a port, or nothing.
        let has_port = !authority.as_str().ends_with(authority.host());
        let port = match authority.port_u16() {
            Some(0) => return Err(OriginError::Port),
            Some(port) => port,
            None if has_port => return Err(OriginError::Port),
            None if secure => 443,
            None => 80,
        };
        match host.is_empty() {
            true => Err(OriginError::NotAUrl),
            false => Ok(Origin { secure, host: host.to_ascii_lowercase(), port }),
        }
    }

    /// The address, if the host is written as one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure { "https://" } else { "http://" })?;
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => Ok(()),
            (_, port) => write!(f, ":{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_origins_are_written_in_many_ways() {
        for (text, shown) in [
            ("https://api.example.com", "https://api.example.com"),
            ("HTTPS://API.example.com:443/", "https://api.example.com"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:80", "http://[::1]"),
            ("https://example.com:80", "https://example.com:80"),
        ] {
            assert_eq!(Origin::parse(text).map(|origin| origin.to_string()), Ok(shown.to_owned()));
        }
        assert_eq!(Origin::parse("http://[::1]").expect("right").ip(), Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for (text, error) in [
            ("example.com", OriginError::NotAUrl),
            ("", OriginError::NotAUrl),
            ("https://", OriginError::NotAUrl),
            ("ftp://example.com", OriginError::Scheme),
            ("https://me@example.com", OriginError::User),
            ("https://me:secret@example.com", OriginError::User),
            ("https://example.com/v1", OriginError::Path),
            ("https://example.com?q", OriginError::Path),
            ("https://*.example.com", OriginError::Wildcard),
            ("https://example.com:0", OriginError::Port),
            ("https://example.com:", OriginError::Port),
            ("https://example.com:65536", OriginError::Port),
        ] {
            assert_eq!(Origin::parse(text), Err(error), "{text}");
        }
    }
}
