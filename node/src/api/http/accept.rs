//! Negotiates the format of a listing by the `Accept` header.
//!
//! Plain text is the documented format, so JSON must be preferred explicitly: by a higher `q`, or
//! by name where text is only covered by a wildcard. Clients that rank both equally (axios does by
//! default) get text.

use http::HeaderMap;
use http::header::ACCEPT;

/// Rank of an accepted media type: weight in thousandths, then specificity of the range.
type Rank = (u16, u8);

/// Returns whether the client prefers JSON to plain text.
pub(crate) fn prefers_json(headers: &HeaderMap) -> bool {
    let (mut json, mut text): (AcceptedRange, AcceptedRange) =
        (AcceptedRange::default(), AcceptedRange::default());
    for line in headers.get_all(ACCEPT) {
        let Ok(line) = line.to_str() else { continue };
        for range in line.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(parse_weight).unwrap_or(1000);
            json.consider(&name, weight, "application/json", "application/*");
            text.consider(&name, weight, "text/plain", "text/*");
        }
    }
    json.rank() > text.rank()
}

/// Most specific range seen for a media type.
#[derive(Default)]
struct AcceptedRange {
    weight: u16,
    specificity: u8,
}

impl AcceptedRange {
    fn consider(&mut self, range: &str, weight: u16, exact: &str, kind: &str) {
        let specificity = match range {
            range if range == exact => 3,
            range if range == kind => 2,
            "*/*" => 1,
            _ => return,
        };
        if specificity > self.specificity {
            *self = Self {
                weight,
                specificity,
            };
        }
    }

    fn rank(&self) -> Rank {
        (
            self.weight,
            if self.weight == 0 {
                0
            } else {
                self.specificity
            },
        )
    }
}

/// Parses `q=0.5` as 500; `None` for other parameters, 0 for an invalid weight.
fn parse_weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value: f32 = value.trim().parse().unwrap_or(0.0);
    Some((value.clamp(0.0, 1.0) * 1000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(accept: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, http::HeaderValue::from_static(accept));
        prefers_json(&headers)
    }

    #[test]
    fn json_must_be_preferred() {
        assert!(json("application/json"));
        assert!(json("Application/JSON;charset=utf-8"));
        assert!(json("application/json, */*"));
        assert!(json("application/json, text/plain;q=0.9"));
        assert!(json("text/html, application/*"));
        assert!(!json("*/*"));
        assert!(!json("application/json, text/plain, */*"));
        assert!(!json("application/json;q=0.5, text/plain"));
        assert!(!json("application/json;q=0"));
        assert!(!json(
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
        ));
        assert!(!json(""));
        assert!(!json("application/json;q=nan"));
        assert!(!prefers_json(&HeaderMap::new()));
    }
}
