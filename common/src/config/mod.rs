//! The machinery of settings: the same names everywhere.
//!
//! A program declares each of its settings once, with [`settings!`](crate::settings): its field,
//! its documentation, what is right for it and its default. From that come the flag
//! (`--max-connections`), the variable (`CLOUDKV_MAX_CONNECTIONS`), the key of the TOML file
//! (`max_connections`), the help and the printed configuration. Flags win over variables, those
//! over the file, the file over the defaults; an empty variable counts as none.
//!
//! A wrong setting stops the start. The message names the setting, where it came from, the value,
//! and what would be right. Nothing here reads the process's globals but the configuration file:
//! arguments and variables come in as parameters, so that tests can give any.

mod error;
mod flags;
mod hosts;
mod kinds;
mod networks;
mod print;
mod sources;
mod table;
mod values;
mod words;

pub use error::{ConfigError, Origin};
pub use flags::{Flags, printed_or_refused};
pub use hosts::{Detours, HostPort, HostPorts, NodeName};
pub use kinds::{Address, Describe, Kind, Maybe, Number, OrOff, Span};
pub use networks::Networks;
pub use print::to_toml;
pub use sources::Found;
pub use table::{Setting, Settings};
pub use values::{Kib, LogFormat, Mib, Region, Secret, Target};
pub use words::{File, Folder, Format, Levels, Name, Switch, Token};
