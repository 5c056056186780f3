//! Bounds what a client can make this server decode: a message larger than the largest op of the
//! cluster is refused by its head. (What may be gathered before is the business of the budgets of
//! calls, in `kvprocess`.) Shell.
//!
//! The limit is a setting of the cluster, known only once the server is registered, while a gRPC
//! service has its limit built in. So each call gets a service with the limit of that moment.

use std::sync::Arc;
use std::task::{Context, Poll};

use kvproto::limits::MESSAGE_SIZE_MAX;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::Request;
use tonic::server::NamedService;

use crate::node::NodeHandle;

/// Room around an op: tags and lengths of as many changes as one batch may have.
const FRAMING_SIZE_MAX: usize = 1 << 20;

/// A service whose calls take messages up to the present limit.
#[derive(Clone)]
pub(super) struct Limited<S> {
    service: S,
    // Behind an `Arc`, since a service is cloned for every call.
    node: Arc<NodeHandle>,
    limit: fn(S, usize) -> S,
}

impl<S> Limited<S> {
    /// `limit` gives a service the size of the largest message that it decodes.
    pub(super) fn new(service: S, node: NodeHandle, limit: fn(S, usize) -> S) -> Limited<S> {
        Limited { service, node: Arc::new(node), limit }
    }

    fn size_max(&self) -> usize {
        let op_size_max =
            self.node.look(|standing| standing.view.as_ref().map(|view| view.settings.op_size_max));
        let op_size_max = op_size_max.and_then(|bytes| usize::try_from(bytes).ok());
        op_size_max
            .map_or(MESSAGE_SIZE_MAX, |bytes| bytes.saturating_add(FRAMING_SIZE_MAX))
            .min(MESSAGE_SIZE_MAX)
    }
}

impl<S: Service<Request<Body>> + Clone> Service<Request<Body>> for Limited<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        (self.limit)(self.service.clone(), self.size_max()).call(request)
    }
}

impl<S: NamedService> NamedService for Limited<S> {
    const NAME: &'static str = S::NAME;
}
