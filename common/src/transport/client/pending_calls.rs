//! Calls of one client that were sent, and wait for their replies.

use std::collections::HashMap;

use cloudkv_proto::v1 as pb;
use tokio::sync::mpsc;

use super::call::{CallError, QueuedCall, ReplySender, millis_left};

/// Maximum number of calls in one frame.
const MAX_FRAME_CALLS: usize = 512;
/// Approximate maximum of bytes in one frame; a larger call is sent alone.
const MAX_FRAME_BYTES: usize = 1 << 20;

/// Calls that were sent and wait for their replies, by their IDs. An ID is never used again.
pub(super) struct PendingCalls {
    by_id: HashMap<u64, ReplySender>,
    last_id: u64,
    max_calls: usize,
}

impl PendingCalls {
    /// Creates an empty set for at most `max_calls`.
    pub(super) fn new(max_calls: usize) -> Self {
        Self {
            by_id: HashMap::new(),
            last_id: 0,
            max_calls,
        }
    }

    /// Returns whether another call may be sent.
    pub(super) fn has_capacity(&self) -> bool {
        self.by_id.len() < self.max_calls
    }

    /// Builds a frame of a call and of those that are queued behind it, within its bounds.
    pub(super) fn build_frame(
        &mut self,
        first: QueuedCall,
        queue: &mut mpsc::Receiver<QueuedCall>,
    ) -> pb::CallFrame {
        let mut frame = pb::CallFrame::default();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(call) = next.take() {
            bytes += call.permit.bytes();
            if call.state.mark_sent() {
                self.last_id += 1;
                self.by_id.insert(self.last_id, call.reply);
                frame.calls.push(pb::Call {
                    id: self.last_id,
                    timeout_ms: millis_left(call.deadline),
                    body: Some(call.body),
                });
            }
            if frame.calls.len() < MAX_FRAME_CALLS && bytes < MAX_FRAME_BYTES && self.has_capacity()
            {
                next = queue.try_recv().ok();
            }
        }
        frame
    }

    /// Passes the replies of a frame to those who wait for them.
    pub(super) fn dispatch(&mut self, frame: pb::ReplyFrame) {
        for reply in frame.replies {
            let Some(caller) = self.by_id.remove(&reply.id) else {
                continue;
            };
            // A reply of a kind that this version doesn't know counts as none.
            let body = reply.body.ok_or(CallError::Lost);
            // The caller may have given up.
            let _ = caller.send(body);
        }
    }

    /// Removes the calls whose callers have given up.
    pub(super) fn remove_abandoned(&mut self) {
        self.by_id.retain(|_, caller| !caller.is_closed());
    }

    /// Removes all calls: their connection ended, and they are lost.
    pub(super) fn clear(&mut self) {
        self.by_id.clear();
    }
}
