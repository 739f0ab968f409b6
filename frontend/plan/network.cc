#include "frontend/plan/network.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <utility>

#include <sys/socket.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

#include "frontend/system/find_program.h"
#include "frontend/system/read_file.h"
#include "policy/text/split.h"
#include "protocol/base/unique_fd.h"

namespace postern::plan {
namespace {

// slirp4netns(1)'s own numbers, given to pasta too: one image finds one network everywhere. The
// host's address is not the container's, as it would be by pasta's default.
constexpr const char* kAddress = "10.0.2.100";
constexpr const char* kMask = "24";
constexpr const char* kGateway = "10.0.2.2";
constexpr const char* kSlirpResolver = "10.0.2.3";  // passes on to the host's name servers

bool is_port(std::string_view text) {
  unsigned number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size() && number > 0 && number < 65536;
}

Problem bad_argument(const std::string& word) {
  return Problem{.what = "--network-args: \"" + word + "\" is not understood",
                 .cure = "give portmap=HOST[:INSIDE]/tcp (or /udp), or hostport=PORT/tcp"};
}

// HOST[:INSIDE]/tcp
std::optional<NetworkPorts::Port> parse_port(std::string_view text) {
  const auto slash = text.find('/');
  const std::string_view protocol = slash == text.npos ? "tcp" : text.substr(slash + 1);
  text = text.substr(0, slash);
  const auto colon = text.find(':');
  const std::string_view host = text.substr(0, colon);
  const std::string_view inside = colon == text.npos ? host : text.substr(colon + 1);
  if (!is_port(host) || !is_port(inside) || (protocol != "tcp" && protocol != "udp")) {
    return std::nullopt;
  }
  return NetworkPorts::Port{std::string(host), std::string(inside), protocol == "udp"};
}

Outcome<> parse_argument(std::string_view word, NetworkPorts& out) {
  const auto equals = word.find('=');
  std::string_view key = word.substr(0, equals);
  const auto colon = key.rfind(':');  // of the network, whose name comes first
  key = colon == key.npos ? key : key.substr(colon + 1);
  const auto port = equals == word.npos ? std::nullopt : parse_port(word.substr(equals + 1));
  if (!port || (key != "portmap" && key != "hostport")) {
    return bad_argument(std::string(word));
  }
  (key == "portmap" ? out.published : out.reached).push_back(*port);
  return Ok{};
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    lines.push_back(text::next_line(text));
  }
  return lines;
}

// resolv.conf(5): the address of a "nameserver" line, "" of any other.
std::string_view name_server(std::string_view line) {
  constexpr std::string_view kKey = "nameserver";
  if (!line.starts_with(kKey)) {
    return {};
  }
  line.remove_prefix(kKey.size());
  line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  return line.substr(0, line.find_first_of(" \t\r"));
}

bool is_loopback(std::string_view address) {
  return address.starts_with("127.") || address == "::1";
}

// Servers that the container reaches; the other lines stay.
struct Resolvers {
  std::string others;
  std::string servers;
  bool any_loopback = false;
};

Resolvers resolvers_in(std::string_view text) {
  Resolvers out;
  for (const std::string_view line : lines_of(text)) {
    const std::string_view address = name_server(line);
    if (!address.empty() && is_loopback(address)) {
      out.any_loopback = true;
    } else {
      (address.empty() ? out.others : out.servers) += std::string(line) + '\n';
    }
  }
  return out;
}

void add_ports(std::vector<std::string>& words,
               const char* option,
               const std::vector<NetworkPorts::Port>& ports,
               bool udp) {
  bool any = false;
  for (const NetworkPorts::Port& port : ports) {
    if (port.udp == udp) {
      words.insert(words.end(), {option, port.host + ':' + port.inside});
      any = true;
    }
  }
  if (!any) {
    words.insert(words.end(), {option, "none"});
  }
}

CarriedNetwork by_pasta(const NetworkPorts& ports,
                        std::string_view resolv_conf,
                        std::string_view upstream) {
  CarriedNetwork out;
  NetworkPorts all = ports;
  Resolvers host = resolvers_in(resolv_conf);
  // A name server on the host's loopback device is not on the container's: the servers that it asks
  // itself are better, else its port is passed on.
  if (host.any_loopback && host.servers.empty()) {
    host.servers = resolvers_in(upstream).servers;
    if (host.servers.empty()) {
      host.servers = "nameserver 127.0.0.1\n";
      all.reached.push_back({"53", "53", false});
      all.reached.push_back({"53", "53", true});
    }
  }
  if (host.any_loopback) {
    out.resolv_conf = host.servers + host.others;
  }
  out.words = {"pasta",        "--foreground", "--quiet",         "--config-net", "--no-map-gw",
               "--netns-only", "--netns",      "/proc/self/fd/0", "--pid",        "/proc/self/fd/1",
               "--address",    kAddress,       "--netmask",       kMask,          "--gateway",
               kGateway};
  add_ports(out.words, "--tcp-ports", all.published, false);
  add_ports(out.words, "--udp-ports", all.published, true);
  add_ports(out.words, "--tcp-ns", all.reached, false);
  add_ports(out.words, "--udp-ns", all.reached, true);
  return out;
}

CarriedNetwork by_slirp(std::string_view resolv_conf) {
  CarriedNetwork out;
  out.ready_descriptor = 3;
  out.words = {"slirp4netns",  "--configure",       "--mtu=65520",     "--disable-host-loopback",
               "--ready-fd=3", "--netns-type=path", "/proc/self/fd/0", "tap0"};
  out.resolv_conf =
      std::string("nameserver ") + kSlirpResolver + '\n' + resolvers_in(resolv_conf).others;
  return out;
}

// Whether the host's port can be had now: pasta of 2023 runs without one of them all the same.
Outcome<> check_port(const NetworkPorts::Port& port) {
  const UniqueFd probe(::socket(AF_INET, (port.udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  unsigned number = 0;
  std::from_chars(port.host.data(), port.host.data() + port.host.size(), number);
  address.sin_port = ::htons(static_cast<std::uint16_t>(number));
  const int on = 1;
  ::setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (probe.valid() &&
      ::bind(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return system_problem("--network-args: port " + port.host + " of the host", errno,
                          errno == EACCES ? "choose a port above 1023" : "choose a free port");
  }
  return Ok{};
}

}  // namespace

Outcome<NetworkPorts> parse_network_arguments(const std::vector<std::string>& words) {
  NetworkPorts out;
  for (const std::string& list : words) {
    for (std::size_t begin = 0; begin <= list.size();) {
      const std::size_t end = std::min(list.find(';', begin), list.size());
      POSTERN_TRY(parse_argument(std::string_view(list).substr(begin, end - begin), out));
      begin = end + 1;
    }
  }
  return out;
}

CarriedNetwork carried_network(NetworkTool tool,
                               std::string program,
                               const NetworkPorts& ports,
                               std::string_view resolv_conf,
                               std::string_view upstream) {
  CarriedNetwork out =
      tool == NetworkTool::kPasta ? by_pasta(ports, resolv_conf, upstream) : by_slirp(resolv_conf);
  out.program = std::move(program);
  return out;
}

Outcome<CarriedNetwork> find_carried_network(std::string_view name,
                                             const std::vector<std::string>& arguments) {
  POSTERN_TRY_ASSIGN(const NetworkPorts ports, parse_network_arguments(arguments));
  for (const NetworkPorts::Port& port : ports.published) {
    POSTERN_TRY(check_port(port));
  }
  const bool any_port = !ports.published.empty() || !ports.reached.empty();
  const auto text = [](const char* path) {
    return system::read_small_file(std::string(path)).value_or("");
  };
  const auto with = [&](NetworkTool tool, std::string program) {
    return carried_network(tool, std::move(program), ports, text("/etc/resolv.conf"),
                           text("/run/systemd/resolve/resolv.conf"));
  };
  std::string pasta = name == "slirp4netns" ? "" : system::find_program("pasta");
  if (!pasta.empty()) {
    CarriedNetwork network = with(NetworkTool::kPasta, std::move(pasta));
    if (::geteuid() == 0) {
      // Else it becomes nobody, whom a namespace of root's does not let into its network.
      network.words.insert(network.words.end(), {"--runas", "0:0"});
    }
    return network;
  }
  std::string slirp = name == "pasta" ? "" : system::find_program("slirp4netns");
  if (slirp.empty()) {
    return Problem{.what = "--network " + std::string(name) + ": this host has " +
                           (name == "fakeroot" ? "neither pasta nor slirp4netns"
                                               : "no program " + std::string(name)),
                   .cure = "install the package passt, or use --network none"};
  }
  if (any_port) {
    return Problem{.what = "--network-args: slirp4netns maps no ports here",
                   .cure = "install the package passt, whose pasta does"};
  }
  return with(NetworkTool::kSlirp, std::move(slirp));
}

}  // namespace postern::plan
