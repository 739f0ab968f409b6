// Networks that a program of the host carries for one container, without privilege: pasta(1) or
// slirp4netns(1). What they are given is decided here; frontend/start/network.h starts them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::plan {

enum class NetworkTool { kPasta, kSlirp };

// How the program finds its container: the network namespace is its descriptor 0, and what it
// writes to `ready_descriptor` says that the network is there.
struct CarriedNetwork {
  std::string program;
  std::vector<std::string> words;
  int ready_descriptor = 1;
  // The container's resolv.conf; nothing: the host's will do.
  std::optional<std::string> resolv_conf;
};

// What --network-args ask of a carried network.
struct NetworkPorts {
  struct Port {
    std::string host;
    std::string inside;
    bool udp = false;
  };

  std::vector<Port> published;  // portmap=: of the host, to the container's
  std::vector<Port> reached;    // hostport=: of the container's 127.0.0.1, to the host's
};

// The words of --network-args: [NETWORK:]KEY=VALUE[;KEY=VALUE…].
Outcome<NetworkPorts> parse_network_arguments(const std::vector<std::string>& words);

// `resolv_conf`: the host's file; `upstream`: systemd-resolved's list of the servers that it asks.
CarriedNetwork carried_network(NetworkTool tool,
                               std::string program,
                               const NetworkPorts& ports,
                               std::string_view resolv_conf,
                               std::string_view upstream);

// The same with what this host has: `name` is fakeroot (either program), pasta or slirp4netns.
Outcome<CarriedNetwork> find_carried_network(std::string_view name,
                                             const std::vector<std::string>& arguments);

}  // namespace postern::plan
