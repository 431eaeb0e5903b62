//! One client connection: output, input, and the requests in flight.
//!
//! Readiness is edge-triggered. A read that fills less than the buffer has drained the socket, so
//! no further read is spent on getting `WouldBlock`.

use super::response::Response;
use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const INPUT_BYTES: usize = 16 * 1024;

/// A request without a response yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    /// Requested key.
    pub key: u64,
    /// Time when it was queued for the socket.
    pub sent: Instant,
}

/// One keep-alive connection; responses arrive in the order of the requests.
#[derive(Debug)]
pub(super) struct Connection {
    /// Socket, to be registered with the poll.
    pub stream: TcpStream,
    /// Requests that are not written yet.
    pub output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    input_start: usize,
    input_end: usize,
    /// Requests without a response yet, oldest first.
    pub in_flight: VecDeque<InFlight>,
}

impl Connection {
    /// Connects. Blocks.
    pub(super) fn open(addr: SocketAddr) -> Result<Self> {
        let stream = std::net::TcpStream::connect_timeout(&addr, CONNECT_TIMEOUT)
            .with_context(|| format!("connect to {addr}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        stream.set_nonblocking(true).context("set non-blocking")?;
        Ok(Self {
            stream: TcpStream::from_std(stream),
            output: Vec::new(),
            written: 0,
            input: vec![0; INPUT_BYTES],
            input_start: 0,
            input_end: 0,
            in_flight: VecDeque::new(),
        })
    }

    /// Writes `output`, as far as the socket accepts it.
    pub(super) fn flush(&mut self) -> Result<()> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => bail!("connection accepts no bytes"),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("write request"),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads once. Returns whether the socket may hold more.
    pub(super) fn read_input(&mut self) -> Result<bool> {
        self.compact_input();
        loop {
            match self.stream.read(&mut self.input[self.input_end..]) {
                Ok(0) => bail!("server closed the connection"),
                Ok(count) => {
                    self.input_end += count;
                    return Ok(self.input_end == self.input.len());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("read response"),
            }
        }
    }

    /// Returns the next complete response, with the request it belongs to.
    pub(super) fn next_response(&mut self) -> Result<Option<(InFlight, u16, &[u8])>> {
        let Some(response) = Response::parse(&self.input[self.input_start..self.input_end])? else {
            return Ok(None);
        };
        if self.input_start + response.len() > self.input_end {
            return Ok(None);
        }
        let request = self
            .in_flight
            .pop_front()
            .context("response without a request")?;
        let body = self.input_start + response.body.start..self.input_start + response.body.end;
        self.input_start += response.len();
        Ok(Some((request, response.status, &self.input[body])))
    }

    /// Moves the remaining input to the front; grows the buffer only if one response needs all of
    /// it.
    fn compact_input(&mut self) {
        if self.input_start == self.input_end {
            (self.input_start, self.input_end) = (0, 0);
        } else if self.input_end == self.input.len() {
            self.input.copy_within(self.input_start..self.input_end, 0);
            (self.input_start, self.input_end) = (0, self.input_end - self.input_start);
            if self.input_end == self.input.len() {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
    }
}
