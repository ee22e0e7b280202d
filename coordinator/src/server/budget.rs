//! How much memory the bodies of requests may take, all callers together.
//!
//! A body is read into memory as a whole before its request is looked at, and on the user API anybody
//! can send one. A small one is always taken; beyond that, all of them share what there is.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body as AxumBody, BodyDataStream};
use futures_core::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};
use tonic::server::NamedService;

/// A service whose requests draw on one budget.
#[derive(Clone, Debug)]
pub struct Budgeted<S> {
    inner: S,
    bytes: Arc<Semaphore>,
}

impl<S> Budgeted<S> {
    /// All requests to `inner` together take no more than `bytes`, beside small ones.
    pub fn new(inner: S, bytes: usize) -> Self {
        Self {
            inner,
            bytes: Arc::new(Semaphore::new(bytes)),
        }
    }
}

impl<S: NamedService> NamedService for Budgeted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Budgeted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let share = Arc::new(Mutex::new(Share {
            budget: Arc::clone(&self.bytes),
            taken: None,
            free: FREE,
        }));
        let counted = Arc::clone(&share);
        let request = request.map(|body| {
            let data = AxumBody::new(body).into_data_stream();
            Body::new(AxumBody::from_stream(Counted {
                data,
                share: counted,
            }))
        });
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            // What was read is in use until the request is answered.
            drop(share);
            answer
        })
    }
}

/// What one request has taken.
struct Share {
    budget: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
    free: usize,
}

impl Share {
    fn take(&mut self, bytes: usize) -> Result<(), Status> {
        let free = bytes.min(self.free);
        self.free -= free;
        let Ok(bytes @ 1..) = u32::try_from(bytes - free) else {
            return Ok(());
        };
        let taken = Arc::clone(&self.budget)
            .try_acquire_many_owned(bytes)
            .map_err(|_| Status::resource_exhausted("too many large requests; try again"))?;
        match &mut self.taken {
            Some(all) => all.merge(taken),
            None => self.taken = Some(taken),
        }
        Ok(())
    }
}

/// A body that takes its share as it comes in.
struct Counted {
    data: BodyDataStream,
    share: Arc<Mutex<Share>>,
}

impl Stream for Counted {
    type Item = Result<Bytes, tonic::codegen::StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let data = Pin::new(&mut self.data).poll_next(cx);
        data.map(|it| {
            it.map(|data| {
                let data = data?;
                let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
                share.take(data.len())?;
                Ok(data)
            })
        })
    }
}

/// What every request may have: many a manifest fits, and every share of a seed.
const FREE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn share(budget: &Arc<Semaphore>) -> Share {
        Share {
            budget: Arc::clone(budget),
            taken: None,
            free: FREE,
        }
    }

    #[test]
    fn small_requests_are_taken_whatever_large_ones_do() {
        let budget = Arc::new(Semaphore::new(1000));
        let mut large = share(&budget);
        large.take(FREE + 600).unwrap();
        large.take(400).unwrap();
        large.take(1).unwrap_err();
        let mut small = share(&budget);
        small.take(FREE).unwrap();
        small.take(1).unwrap_err();
        drop(large);
        small.take(1000).unwrap();
    }
}
