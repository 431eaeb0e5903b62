//! The statements that the collection's scripts use.

use cloudkv_test_harness::HttpResponse;

use super::environment::Environment;

/// A statement of a test script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `pm.response.to.have.status(200)`, or `oneOf` with several.
    Status(Vec<u16>),
    /// `pm.expect(pm.response.responseTime).to.be.below(1001)`, in milliseconds.
    ResponseTimeBelow(u128),
    /// `pm.response.to.have.body(pm.environment.get("value"))`.
    BodyEquals(String),
    /// `pm.environment.set("bucket", pm.response.json().bucket_id)`.
    SetVariable {
        /// Name of the variable.
        variable: String,
        /// Field of the response.
        field: String,
    },
}

impl Statement {
    /// Runs the statement.
    ///
    /// # Errors
    /// Returns an error if an assertion doesn't hold.
    pub fn run(
        &self,
        response: &HttpResponse,
        environment: &mut Environment,
    ) -> Result<(), String> {
        let is_ok = match self {
            Self::Status(codes) => codes.contains(&response.status),
            Self::ResponseTimeBelow(limit) => response.elapsed.as_millis() < *limit,
            Self::BodyEquals(variable) => environment
                .get(variable)
                .is_some_and(|value| value.as_bytes() == response.body),
            Self::SetVariable { variable, field } => match response.json()[field].as_str() {
                Some(value) => {
                    environment.set(variable, value);
                    true
                }
                None => false,
            },
        };
        if is_ok {
            Ok(())
        } else {
            Err(format!("{self:?} fails: {response:?}"))
        }
    }
}

/// Parses a script.
///
/// # Errors
/// Returns the first line that isn't supported.
pub fn parse(lines: &[String]) -> Result<Vec<Statement>, String> {
    let statements = lines.iter().map(|line| line.trim());
    let statements = statements.filter(|line| !is_test_boundary(line));
    statements
        .map(|line| parse_statement(line).ok_or_else(|| line.to_owned()))
        .collect()
}

/// Returns whether a line only opens or closes a test.
fn is_test_boundary(line: &str) -> bool {
    let is_test_start = line.starts_with("pm.test(\"") && line.ends_with("\", function () {");
    is_test_start || line == "});" || line.is_empty()
}

fn parse_statement(line: &str) -> Option<Statement> {
    let between = |start: &str, end: &str| line.strip_prefix(start)?.strip_suffix(end);
    if let Some(code) = between("pm.response.to.have.status(", ");") {
        Some(Statement::Status(vec![code.parse().ok()?]))
    } else if let Some(codes) = between("pm.expect(pm.response.code).to.be.oneOf([", "]);") {
        let codes: Result<_, _> = codes.split(',').map(|code| code.trim().parse()).collect();
        Some(Statement::Status(codes.ok()?))
    } else if let Some(limit) = between("pm.expect(pm.response.responseTime).to.be.below(", ");") {
        Some(Statement::ResponseTimeBelow(limit.parse().ok()?))
    } else if let Some(name) = between("pm.response.to.have.body(pm.environment.get(\"", "\"));") {
        Some(Statement::BodyEquals(name.to_owned()))
    } else {
        let (variable, field) =
            between("pm.environment.set(\"", ");")?.split_once("\", pm.response.json().")?;
        Some(Statement::SetVariable {
            variable: variable.to_owned(),
            field: field.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Statement, parse};

    #[test]
    fn an_unknown_statement_is_an_error() {
        let known = [
            "pm.test(\"x\", function () {",
            "  pm.response.to.have.status(200);",
            "});",
        ];
        let lines: Vec<String> = known.map(str::to_owned).to_vec();
        assert_eq!(parse(&lines), Ok(vec![Statement::Status(vec![200])]));
        let unknown = "pm.sendRequest(\"x\");".to_owned();
        assert_eq!(parse(std::slice::from_ref(&unknown)), Err(unknown));
    }
}
