//! Has a node lose its disk and rejoin under a new identity, while the others serve.
//!
//! | file | contents |
//! | --- | --- |
//! | `args` | options |
//! | `under_load` | many small keys, under a share of the capacity |
//! | `volume` | much data, over a slow network |
//! | `steps` | what both share |

mod args;
mod steps;
mod under_load;
mod volume;

pub(crate) use args::Args;

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    match args.volume.params() {
        Some(volume) => volume::run(args, &volume).await,
        None => under_load::run(args).await,
    }
}
