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
pub struct InFlight {
    /// Requested key.
    pub key: u64,
    /// Time when it was queued for the socket.
    pub sent: Instant,
}

/// One keep-alive connection; responses arrive in the order of the requests.
#[derive(Debug)]
pub struct Connection {
    /// Socket, to be registered with the poll.
    pub stream: TcpStream,
    /// Requests that are not written yet.
    pub output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Requests without a response yet, oldest first.
    pub in_flight: VecDeque<InFlight>,
}

impl Connection {
    /// Connects. Blocks.
    pub fn open(addr: SocketAddr) -> Result<Self> {
        let stream = std::net::TcpStream::connect_timeout(&addr, CONNECT_TIMEOUT)
            .with_context(|| format!("connect to {addr}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        stream.set_nonblocking(true).context("set non-blocking")?;
        Ok(Self {
            stream: TcpStream::from_std(stream),
            output: Vec::new(),
            written: 0,
            input: vec![0; INPUT_BYTES],
            start: 0,
            end: 0,
            in_flight: VecDeque::new(),
        })
    }

    /// Writes `output`, as far as the socket accepts it.
    pub fn flush(&mut self) -> Result<()> {
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
    pub fn fill(&mut self) -> Result<bool> {
        self.make_room();
        loop {
            match self.stream.read(&mut self.input[self.end..]) {
                Ok(0) => bail!("server closed the connection"),
                Ok(count) => {
                    self.end += count;
                    return Ok(self.end == self.input.len());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("read response"),
            }
        }
    }

    /// Returns the next complete response, with the request it belongs to.
    pub fn next_answer(&mut self) -> Result<Option<(InFlight, u16, &[u8])>> {
        let Some(response) = Response::parse(&self.input[self.start..self.end])? else {
            return Ok(None);
        };
        if self.start + response.len() > self.end {
            return Ok(None);
        }
        let request = self
            .in_flight
            .pop_front()
            .context("response without a request")?;
        let body = self.start + response.body.start..self.start + response.body.end;
        self.start += response.len();
        Ok(Some((request, response.status, &self.input[body])))
    }

    /// Moves the remaining input to the front; grows the buffer only if one response needs all of
    /// it.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.input.len() {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.input.len() {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
    }
}
