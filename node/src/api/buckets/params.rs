//! Parameters of creating and modifying a bucket, from the query or the body.

use std::borrow::Cow;
use std::time::Duration;

use crate::api::errors::ApiError;
use crate::api::http::query::Query;
use crate::api::http::ttl;
use crate::service::{Access, AccountId, CreateBucket, ModifyBucket, Plan};

/// Maximum length of a comment, in bytes.
const MAX_COMMENT_BYTES: usize = 1024;

/// Parameters by name, each given at most once, whose values are not validated yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BucketParams {
    access: Option<String>,
    comment: Option<String>,
    plan: Option<String>,
    default_ttl: Option<String>,
}

impl BucketParams {
    /// Names of all parameters.
    pub(crate) const NAMES: [&'static str; 4] = ["access", "comment", "plan", "default_ttl"];

    /// Reads the parameters of a query or an urlencoded form.
    pub(crate) fn from_query(query: Query<'_>) -> Result<Self, ApiError> {
        let get = |name| query.get(name).map(|value| value.map(Cow::into_owned));
        Ok(Self {
            access: get("access")?,
            comment: get("comment")?,
            plan: get("plan")?,
            default_ttl: get("default_ttl")?,
        })
    }

    /// Sets one parameter; unknown names are ignored, a repeated name is refused.
    pub(crate) fn set(&mut self, name: &str, value: String) -> Result<(), ApiError> {
        let Some((name, slot)) = self.slots().into_iter().find(|(known, _)| *known == name) else {
            return Ok(());
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(ApiError::repeated_parameter(name)),
        }
    }

    /// Merges the parameters of body and query, which must not differ.
    pub(crate) fn merge(mut self, mut other: Self) -> Result<Self, ApiError> {
        for ((name, ours), (_, theirs)) in self.slots().into_iter().zip(other.slots()) {
            if ours.is_some() && theirs.is_some() && ours != theirs {
                let message = format!("parameter {name} differs between query and body");
                return Err(ApiError::invalid_parameter(message));
            }
            if ours.is_none() {
                *ours = theirs.take();
            }
        }
        Ok(self)
    }

    fn slots(&mut self) -> [(&'static str, &mut Option<String>); 4] {
        let Self {
            access,
            comment,
            plan,
            default_ttl,
        } = self;
        [
            ("access", access),
            ("comment", comment),
            ("plan", plan),
            ("default_ttl", default_ttl),
        ]
    }

    /// Validates the parameters as a request to create a bucket.
    pub(crate) fn into_create(self, account: Option<AccountId>) -> Result<CreateBucket, ApiError> {
        Ok(CreateBucket {
            account,
            access: self
                .access
                .as_deref()
                .map_or(Ok(Access::Public), parse_access)?,
            plan: self.plan.as_deref().map(parse_plan).transpose()?,
            comment: self
                .comment
                .map(check_comment)
                .transpose()?
                .filter(|text| !text.is_empty()),
            default_ttl: self
                .default_ttl
                .as_deref()
                .map(parse_default_ttl)
                .transpose()?
                .flatten(),
        })
    }

    /// Validates the parameters as a request to modify a bucket.
    pub(crate) fn into_modify(self) -> Result<ModifyBucket, ApiError> {
        if self.access.is_some() {
            let message = "access is chosen at creation and cannot be changed: create a new bucket";
            return Err(ApiError::invalid_access(message));
        }
        Ok(ModifyBucket {
            comment: self.comment.map(check_comment).transpose()?,
            plan: self.plan.as_deref().map(parse_plan).transpose()?,
            default_ttl: self
                .default_ttl
                .as_deref()
                .map(parse_default_ttl)
                .transpose()?,
        })
    }
}

fn parse_access(name: &str) -> Result<Access, ApiError> {
    let message = "access must be public, public-read or protected";
    Access::parse(name).ok_or_else(|| ApiError::invalid_access(message))
}

fn parse_plan(name: &str) -> Result<Plan, ApiError> {
    let message = "plan must be free, pro or business";
    Plan::parse(name).ok_or_else(|| ApiError::invalid_plan(message))
}

/// Parses a default time to live; empty is none.
fn parse_default_ttl(text: &str) -> Result<Option<Duration>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = |error| ApiError::invalid_ttl(format!("default_{error}"));
    ttl::parse(text).map(Some).map_err(invalid)
}

fn check_comment(text: String) -> Result<String, ApiError> {
    if text.len() > MAX_COMMENT_BYTES {
        return Err(ApiError::invalid_parameter(format!(
            "comment must have at most {MAX_COMMENT_BYTES} bytes"
        )));
    }
    if text
        .chars()
        .any(|char| char.is_control() && !matches!(char, '\n' | '\r' | '\t'))
    {
        return Err(ApiError::invalid_parameter(
            "comment must not contain control characters",
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> BucketParams {
        let mut params = BucketParams::default();
        for (name, value) in pairs {
            params.set(name, (*value).to_owned()).unwrap();
        }
        params
    }

    fn create(pairs: &[(&str, &str)]) -> Result<CreateBucket, &'static str> {
        params(pairs)
            .into_create(None)
            .map_err(|error| error.code())
    }

    #[test]
    fn creation_has_defaults() {
        let bucket = create(&[]).unwrap();
        assert_eq!(
            (bucket.access, bucket.plan, bucket.comment),
            (Access::Public, None, None)
        );
        let bucket = create(&[
            ("access", "read-public"),
            ("plan", "pro"),
            ("comment", "hé\n"),
        ])
        .unwrap();
        assert_eq!(
            (bucket.access, bucket.plan),
            (Access::PublicRead, Some(Plan::Pro))
        );
        assert_eq!(bucket.comment.unwrap(), "hé\n");
        assert_eq!(create(&[("comment", "")]).unwrap().comment, None);
    }

    #[test]
    fn values_are_validated() {
        assert_eq!(
            create(&[("access", "secret")]).unwrap_err(),
            "invalid_access"
        );
        assert_eq!(create(&[("access", "")]).unwrap_err(), "invalid_access");
        assert_eq!(create(&[("plan", "gold")]).unwrap_err(), "invalid_plan");
        assert_eq!(
            create(&[("comment", "a\0b")]).unwrap_err(),
            "invalid_parameter"
        );
        assert_eq!(
            create(&[("comment", &"é".repeat(513))]).unwrap_err(),
            "invalid_parameter"
        );
        assert!(create(&[("comment", &"é".repeat(512))]).is_ok());
    }

    #[test]
    fn default_ttls_are_times_to_live_and_empty_is_none() {
        let hour = Duration::from_secs(3600);
        let of = |text| create(&[("default_ttl", text)]).map(|bucket| bucket.default_ttl);
        assert_eq!(of("1h"), Ok(Some(hour)));
        assert_eq!(of(""), Ok(None));
        for text in ["0", "x", "-1", "1y"] {
            assert_eq!(of(text), Err("invalid_ttl"), "{text}");
        }
        let modify = |pairs: &[(&str, &str)]| params(pairs).into_modify().unwrap().default_ttl;
        assert_eq!(modify(&[]), None);
        assert_eq!(modify(&[("default_ttl", "")]), Some(None));
        assert_eq!(modify(&[("default_ttl", "60m")]), Some(Some(hour)));
        let error = params(&[("default_ttl", "0")])
            .into_create(None)
            .unwrap_err();
        assert_eq!(
            error.into_message(),
            "default_ttl must be at least one second"
        );
    }

    #[test]
    fn access_cannot_be_modified() {
        let error = params(&[("access", "public")]).into_modify().unwrap_err();
        assert_eq!(error.code(), "invalid_access");
        let change = params(&[("comment", "")]).into_modify().unwrap();
        assert_eq!(change.comment.as_deref(), Some(""));
    }

    #[test]
    fn query_and_body_must_agree() {
        let body = params(&[("access", "public"), ("comment", "x")]);
        let query = params(&[("access", "public"), ("plan", "pro")]);
        let both = body.clone().merge(query).unwrap();
        assert_eq!(
            both,
            params(&[("access", "public"), ("comment", "x"), ("plan", "pro")])
        );
        let error = body.merge(params(&[("comment", "y")])).unwrap_err();
        assert_eq!(error.code(), "invalid_parameter");
    }

    #[test]
    fn repeated_names_are_refused_and_unknown_names_ignored() {
        let mut params = params(&[("plan", "pro"), ("colour", "red"), ("colour", "blue")]);
        assert_eq!(
            params.set("plan", "pro".into()).unwrap_err().code(),
            "invalid_parameter"
        );
    }
}
