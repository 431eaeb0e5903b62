//! Postman's variables.

use std::collections::HashMap;

/// Variables by name.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: HashMap<String, String>,
}

impl Environment {
    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// Returns a variable, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Replaces each `{{name}}` in `text`; unset variables stay as they are.
    pub fn substitute(&self, text: &str) -> String {
        let Some((before, rest)) = text.split_once("{{") else {
            return text.to_owned();
        };
        let Some((name, after)) = rest.split_once("}}") else {
            return text.to_owned();
        };
        let value = self
            .get(name)
            .map_or_else(|| format!("{{{{{name}}}}}"), str::to_owned);
        format!("{before}{value}{}", self.substitute(after))
    }
}

#[cfg(test)]
mod tests {
    use super::Environment;

    #[test]
    fn unset_variables_stay_as_they_are() {
        let mut environment = Environment::default();
        environment.set("a", "1");
        assert_eq!(environment.substitute("{{a}}{{b}}-{{a}}{{"), "1{{b}}-1{{");
    }
}
