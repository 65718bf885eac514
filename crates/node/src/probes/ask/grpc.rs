//! The gRPC health checking protocol, version 1: one method, two messages.

use std::net::SocketAddr;

use ::http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use crate::probes::verdict::Answer;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    /// 1 is SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks the health service at `address` for `service`, the whole server when empty.
pub(super) async fn check(address: SocketAddr, service: String) -> Answer {
    match ask(address, service).await {
        Ok(1) => Answer::Success,
        Ok(status) => Answer::Failure(format!("service unhealthy (responded with {status})")),
        Err(error) => Answer::Failure(format!("gRPC health check at {address}: {error}")),
    }
}

async fn ask(
    address: SocketAddr,
    service: String,
) -> Result<i32, Box<dyn std::error::Error + Send + Sync>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let method = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
    let request = tonic::Request::new(HealthCheckRequest { service });
    Ok(client.unary(request, method, codec).await?.into_inner().status)
}
