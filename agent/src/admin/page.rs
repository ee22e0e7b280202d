//! The page for people: what the agent shows of itself, live, in a browser on this machine.
//!
//! It is three files that ask the other paths; nothing of it comes from elsewhere, and the browser is
//! told to let nothing else in.

use axum::Router;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::IntoResponse;
use axum::routing::get;

use super::AdminState;

/// The page at `/`, and its two parts.
pub(super) fn routes() -> Router<AdminState> {
    let part = |kind, text| get(async move || answer(kind, text));
    Router::new()
        .route("/", part("text/html; charset=utf-8", HTML))
        .route("/live.css", part("text/css; charset=utf-8", CSS))
        .route("/live.js", part("text/javascript; charset=utf-8", JS))
}

fn answer(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text)
}

const HTML: &str = include_str!("page/live.html");
const CSS: &str = include_str!("page/live.css");
const JS: &str = include_str!("page/live.js");

/// Scripts, styles and answers of this origin, and nothing else: no inline script, no picture, no
/// form, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
