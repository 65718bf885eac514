//! The variables that tell a container of Services, in the shape that Docker links once gave them.

use k8s_openapi::api::core::v1::Service;

/// The variables of one Service; none when it has no address of its own.
pub(super) fn variables(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return Vec::new();
    };
    let name = constant_case(service.metadata.name.as_deref().unwrap_or_default());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let mut variables = vec![(format!("{name}_SERVICE_HOST"), ip.to_owned())];
    for (place, port) in spec.ports.iter().flatten().enumerate() {
        let number = port.port;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let scheme = protocol.to_lowercase();
        let url = format!("{scheme}://{host}:{number}");
        if place == 0 {
            variables.push((format!("{name}_SERVICE_PORT"), number.to_string()));
            variables.push((format!("{name}_PORT"), url.clone()));
        }
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let port_name = constant_case(port_name);
            variables.push((format!("{name}_SERVICE_PORT_{port_name}"), number.to_string()));
        }
        let prefix = format!("{name}_PORT_{number}_{protocol}");
        variables.push((prefix.clone(), url));
        variables.push((format!("{prefix}_PROTO"), scheme));
        variables.push((format!("{prefix}_PORT"), number.to_string()));
        variables.push((format!("{prefix}_ADDR"), ip.to_owned()));
    }
    variables
}

fn constant_case(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}
