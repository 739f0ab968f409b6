// Action: what a command line asks for, after options and environment were merged and before
// anything of the host or the image was looked at.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "frontend/init/record.h"

namespace postern::plan {

// Limits of the payload, as given; start/cgroup/resources.h reads them.
struct ResourceWish {
  std::optional<std::string> memory;
  std::optional<std::string> memory_swap;
  std::optional<std::string> memory_reservation;
  std::optional<std::string> cpus;
  std::optional<std::string> cpu_shares;
  std::optional<std::string> cpuset_cpus;
  std::optional<std::string> cpuset_mems;
  std::optional<std::string> pids_limit;
  std::optional<std::string> blkio_weight;
  std::vector<std::string> blkio_weight_devices;
  bool oom_kill_disable = false;
  std::optional<std::string> file;  // --apply-cgroups

  bool operator==(const ResourceWish&) const = default;
};

// kCarried: a program of the host carries it (frontend/plan/network.h).
enum class Network : std::uint8_t { kHost, kNone, kCarried };

struct Action {
  init::Action what = init::Action::kExec;
  std::string image;                   // as given
  std::vector<std::string> arguments;  // exec: the command; others: the script's arguments

  // Of an image that is fetched first: options for postern-transfer, and a secret that is none.
  std::vector<std::string> fetch_options;
  std::string docker_password;

  // Environment.
  bool clean_environment = false;
  bool no_eval = false;
  std::vector<std::string> not_imported;  // --no-env: names
  std::vector<std::string> set;           // --env: NAME=VALUE
  std::vector<std::string> files;         // --env-file

  // Mounts. Bind and mount specifications as given, parsed by bind.h.
  std::vector<std::string> binds;
  std::vector<std::string> mounts;
  std::vector<std::string> no_mount;     // words of --no-mount
  std::vector<std::string> overlays;     // path[:ro|:rw]
  std::vector<std::string> scratch;      // paths inside
  std::vector<std::string> fuse_mounts;  // --fusemount: as given
  std::vector<std::string> libraries;    // --containlibs: files of the host
  std::string home;                      // src[:dst], empty = the default
  std::string workdir;
  std::string cwd;  // inside, empty = the default
  bool no_home = false;
  bool contain = false;
  bool writable = false;
  bool writable_tmpfs = false;
  bool nv = false;
  bool rocm = false;
  bool intel_hpu = false;
  bool compat32 = false;                     // 32-bit libraries too
  std::vector<std::string> devices;          // --device: vendor.com/class=name
  std::vector<std::string> cdi_directories;  // --cdi-dirs; empty = the standard's
  bool no_nv = false;                        // --no-nv, --no-rocm: against the site's "always"
  bool no_rocm = false;
  std::vector<std::string> dns;

  // Namespaces and identity.
  bool pid = false;
  bool ipc = false;
  bool uts = false;
  Network network = Network::kHost;
  std::string network_name;                    // kCarried: of the program, or fakeroot
  std::vector<std::string> network_arguments;  // --network-args
  std::string network_namespace;               // --netns-path
  std::string hostname;
  bool user_namespace = false;  // --userns: never suid mode
  bool fakeroot = false;
  bool no_init = false;
  bool no_umask = false;
  bool share = true;

  // Privilege.
  std::uint64_t add_capabilities = 0;  // bit n = capability n
  std::uint64_t drop_capabilities = 0;
  bool no_privileges = false;
  bool keep_privileges = false;
  std::string seccomp;  // profile file

  ResourceWish resources;

  // Payload.
  std::string app;
  std::string shell;

  // Encrypted images.
  bool ask_passphrase = false;
  std::string pem_path;
  std::string passphrase_file;
  std::optional<int> passphrase_fd;
  std::string key_command;
};

}  // namespace postern::plan
