//! The front alone: `front_serve FILE`, which holds what is wanted as JSON and is followed. What
//! tests and `./dev bench front` run.

use std::time::Duration;

use berth_balancer::l4::front;
use berth_daemon::Tasks;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("front_serve FILE")?;
    let tasks = Tasks::new();
    front::follow(path.into(), |text| Ok(serde_json::from_str(text)?), None, &tasks).await?;
    println!("ready");
    berth_daemon::wait_for_end().await?;
    tasks.stop(Duration::from_secs(2)).await;
    Ok(())
}
