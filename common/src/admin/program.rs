//! Program that an admin port belongs to. Responses name it, so that a client which was given the
//! port of the other program can say so.

use serde_json::Value;

/// Field of a response with the program's name.
const PROGRAM_FIELD: &str = "program";

/// Program that has an admin port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Storage node.
    Node,
    /// Router.
    Router,
}

impl Program {
    const ALL: [Self; 2] = [Self::Node, Self::Router];

    /// Returns the name of the program's binary.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "cloudkv-node",
            Self::Router => "cloudkv-router",
        }
    }

    /// Returns the program that a response names; `None` if it names none that is known.
    pub fn of_response(body: &Value) -> Option<Self> {
        let name = body[PROGRAM_FIELD].as_str()?;
        let mut all = Self::ALL.into_iter();
        all.find(|program| program.name() == name)
    }

    /// Adds the program's name to a response.
    pub(super) fn add_to(self, mut body: Value) -> Value {
        if let Value::Object(fields) = &mut body {
            fields.insert(PROGRAM_FIELD.to_owned(), self.name().into());
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn responses_name_the_program_that_gave_them() {
        for program in Program::ALL {
            let body = program.add_to(json!({ "status": "ok" }));
            assert_eq!(body, json!({ "status": "ok", "program": program.name() }));
            assert_eq!(Program::of_response(&body), Some(program));
        }
        assert_eq!(Program::of_response(&json!({ "status": "ok" })), None);
        assert_eq!(Program::of_response(&json!({ "program": "etcd" })), None);
        assert_eq!(Program::of_response(&json!([1])), None);
    }
}
