//! Options of `rejoin`.

use crate::args::RegionArgs;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of keys
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    /// Share of the capacity that the load takes
    #[arg(long, default_value_t = 0.3)]
    pub load: f64,
    /// Clients, all nodes together
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Seconds of measuring the capacity, and the load before the loss
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
    #[command(flatten)]
    pub region: RegionArgs,
    #[command(flatten)]
    pub(super) volume: VolumeArgs,
}

/// Amount of data, and rates.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct VolumeArgs {
    /// MiB of values that the region holds, instead of `--keys` small ones; only writes are sent
    /// then, at `--writes-mib-per-s`
    #[arg(long)]
    data_mib: Option<u64>,
    /// KiB of a value
    #[arg(long, default_value_t = 16, requires = "data_mib")]
    value_kib: usize,
    /// MiB of values per second that are written to the other nodes
    #[arg(long, default_value_t = 2.0, requires = "data_mib")]
    writes_mib_per_s: f64,
    /// Mbit/s to the rejoining node, and from it; 0: unlimited, and the time has no limit
    #[arg(long, default_value_t = 0.0, requires = "data_mib")]
    link_mbit: f64,
}

/// Parameters of the measurement.
pub(super) struct VolumeParams {
    /// Number of keys.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Writes per second.
    pub writes_per_second: f64,
    /// Bytes per second; 0: unlimited.
    pub bytes_per_second: u64,
}

impl VolumeArgs {
    /// Returns the parameters of the run, if `--data-mib` is given.
    pub(super) fn params(&self) -> Option<VolumeParams> {
        let value = self.value_kib << 10;
        let mib = f64::from(1 << 20);
        Some(VolumeParams {
            keys: (self.data_mib? << 20) / value.max(1) as u64,
            value_bytes: value,
            writes_per_second: self.writes_mib_per_s * mib / value as f64,
            bytes_per_second: (self.link_mbit * 1e6 / 8.0) as u64,
        })
    }
}
