//! Who may ask: programs of this machine that call it by a name of this machine.
//!
//! Binding to loopback keeps other machines out, not pages that a browser on this one shows. A page
//! whose name was made to lead here says that name as its host; one that asks across origins says
//! its own. Both are turned away.

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::middleware::Next;

use crate::answer::Problem;

/// Lets those through who may ask.
pub(crate) async fn local(request: Request, next: Next) -> Response<Body> {
    match check(request.headers(), request.uri().authority()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into(),
    }
}

fn check(headers: &HeaderMap, authority: Option<&Authority>) -> Result<(), Problem> {
    let host = only(headers, header::HOST)?;
    let Some(host) = host else {
        return Err(Problem::request(StatusCode::BAD_REQUEST, "the request names no host"));
    };
    let parsed: Option<Authority> = host.parse().ok();
    let is_local = |authority: &Authority| {
        let name = authority.host();
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let ip = name.parse::<std::net::IpAddr>();
        name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
    };
    let named = [parsed.as_ref(), authority.or(parsed.as_ref())];
    let clean = !host.contains('@');
    if !clean || !named.iter().all(|authority| authority.is_some_and(is_local)) {
        return Err(Problem::request(
            StatusCode::FORBIDDEN,
            "the request calls this machine by another name than its own",
        )
        .hint("call it localhost or 127.0.0.1"));
    }
    if let Some(origin) = only(headers, header::ORIGIN)?
        && !origin.strip_prefix("http://").is_some_and(|origin| origin.eq_ignore_ascii_case(host))
    {
        return Err(foreign());
    }
    match only(headers, header::HeaderName::from_static("sec-fetch-site"))? {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) => Err(foreign()),
    }
}

/// The value of a header that is given once at most.
fn only(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(&name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| {
            Problem::request(StatusCode::BAD_REQUEST, format!("header \"{name}\" is not text"))
        }),
        (Some(_), Some(_)) => {
            let message = format!("header \"{name}\" is given more than once");
            Err(Problem::request(StatusCode::BAD_REQUEST, message))
        }
    }
}

fn foreign() -> Problem {
    Problem::request(StatusCode::FORBIDDEN, "a page of another origin cannot ask here")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asked(headers: &[(&'static str, &str)]) -> Option<u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        check(&map, None).err().map(|problem| problem.status.as_u16())
    }

    #[test]
    fn names_of_this_machine_are_answered() {
        for host in ["localhost", "LOCALHOST:7878", "127.0.0.1:1", "127.3.2.1", "[::1]:7878"] {
            assert_eq!(asked(&[("host", host)]), None, "{host}");
            let origin = format!("http://{host}");
            assert_eq!(asked(&[("host", host), ("origin", &origin)]), None, "{host}");
        }
    }

    #[test]
    fn other_names_and_origins_are_not() {
        for host in
            ["evil.example", "localhost.evil.example", "10.0.0.1", "a@localhost", "", "[::2]"]
        {
            assert_eq!(asked(&[("host", host)]), Some(403), "{host}");
        }
        for origin in ["null", "http://evil.example", "https://localhost", "http://localhost:1"] {
            assert_eq!(asked(&[("host", "localhost"), ("origin", origin)]), Some(403), "{origin}");
        }
        let cross = ("sec-fetch-site", "cross-site");
        assert_eq!(asked(&[("host", "localhost"), cross]), Some(403));
        assert_eq!(asked(&[]), Some(400));
        assert_eq!(asked(&[("host", "localhost"), ("host", "localhost")]), Some(400));
    }

    #[test]
    fn a_target_with_a_name_of_its_own_must_be_this_machine_too() {
        let mut map = HeaderMap::new();
        map.insert("host", HeaderValue::from_static("localhost"));
        let evil: Authority = "evil.example".parse().expect("an authority");
        assert!(check(&map, Some(&evil)).is_err());
    }
}
