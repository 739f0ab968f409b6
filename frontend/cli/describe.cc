#include "frontend/cli/describe.h"

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <sched.h>

#include "frontend/message/message.h"
#include "policy/config/capabilities.h"

namespace postern::cli {
namespace {

using message::debug;
using message::verbose;

std::string list(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    text += (text.empty() ? "" : " ") + word;
  }
  return text.empty() ? "none" : text;
}

void describe_names(const char* what, const std::vector<std::string>& assignments) {
  for (const std::string& one : assignments) {
    debug(std::string(what) + ' ' + one.substr(0, one.find('=')));
  }
}

// The operation in words, and where it has what it mounts.
std::string words_of(const plan::LaunchPlan& plan, const MountRequest& mount) {
  static constexpr std::array<std::string_view, 10> kWords = {
      "",          "bind",   "generated file", "tmpfs", "proc", "sysfs", "the host's /dev",
      "device of", "devpts", "mqueue"};
  std::string text(kWords[static_cast<std::size_t>(mount.operation)]);
  if (mount.descriptor) {
    const plan::Source& source = plan.sources[*mount.descriptor];
    text += source.path.empty() ? "" : ' ' + source.path;
    if (source.kind == plan::Source::Kind::kServed) {
      text += " of " + plan.servers[source.server].path;
    }
  }
  text += (mount.flags & kReadOnly) != 0 ? ", read-only" : "";
  text += (mount.flags & kOptional) != 0 ? ", left out where it is missing" : "";
  return text;
}

std::string namespaces_of(std::uint32_t flags) {
  struct Name {
    int flag;
    const char* name;
  };

  static constexpr std::array kNames = {
      Name{CLONE_NEWUSER, "user"}, Name{CLONE_NEWPID, "pid"}, Name{CLONE_NEWIPC, "ipc"},
      Name{CLONE_NEWUTS, "uts"},   Name{CLONE_NEWNET, "net"}, Name{CLONE_NEWCGROUP, "cgroup"}};
  std::vector<std::string> words{"mount"};
  for (const Name& one : kNames) {
    if ((flags & static_cast<std::uint32_t>(one.flag)) != 0) {
      words.emplace_back(one.name);
    }
  }
  return list(words);
}

}  // namespace

void describe_input(const plan::PlanInput& input, const config::SiteConfig& site) {
  if (message::threshold() < message::Level::kVerbose) {
    return;
  }
  const plan::Identity& caller = input.caller.identity;
  std::string groups;
  for (const auto& [id, name] : caller.groups) {
    groups += ' ' + std::to_string(id) + (name.empty() ? "" : '(' + name + ')');
  }
  debug("caller: uid " + std::to_string(caller.uid) + " (" + caller.name + "), groups" + groups +
        ", home " + caller.home + ", shell " + caller.shell);
  debug("current directory: " + input.caller.directory);
  debug("umask: 0" + std::to_string(input.caller.umask >> 6 & 7) +
        std::to_string(input.caller.umask >> 3 & 7) + std::to_string(input.caller.umask & 7));
  const config::SiteConfig defaults;
  for (const config::Key& key : config::keys()) {
    const std::string text = config::value_text(site, key);
    debug("setting " + std::string(key.table) + '.' + std::string(key.name) + " = " + text +
          (text == config::value_text(defaults, key) ? "" : " (not the default)"));
  }
  verbose("image: " + input.image.path +
          (input.image.directory ? " (a directory)"
           : input.image.sif     ? " (SIF)"
                                 : " (a bare file system)") +
          (input.image.encrypted ? ", encrypted" : ""));
  if (input.image.root) {
    debug("root file system: " + std::to_string(input.image.root->bytes) + " bytes at " +
          std::to_string(input.image.root->offset) +
          (input.image.root->verity ? ", sealed" : ", not sealed"));
  }
  describe_names("imported variable", input.environment.imported);
  describe_names("given variable", input.environment.forwarded);
  for (const int fd : input.inherited) {
    debug("inherited descriptor " + std::to_string(fd));
  }
}

void describe_plan(const plan::LaunchPlan& plan) {
  if (message::threshold() < message::Level::kVerbose) {
    return;
  }
  static constexpr std::array kServers = {"postern-squashfs", "fuse2fs", "fuse-overlayfs",
                                          "the program of --fusemount"};
  for (const plan::ImageServer& server : plan.servers) {
    verbose("file system of " + server.path + ": served by " +
            kServers[static_cast<std::size_t>(server.served)]);
  }
  const LaunchRequest& request = plan.request;
  verbose("namespaces of its own: " + namespaces_of(request.namespaces));
  verbose("capabilities: " + list(config::capability_names(request.capabilities)));
  debug(std::string("root: ") + (request.writable_root ? "writable" : "read-only") + ", " +
        std::to_string(request.layers.size()) + " layers over it");
  for (const MountRequest& mount : request.mounts) {
    verbose("mount " + mount.target + ": " + words_of(plan, mount));
  }
  for (const std::string& link : plan.record.links) {
    debug("link " + link);
  }
  describe_names("set variable", plan.record.fixed);
  debug("initial directory: " + plan.record.cwd);
  debug("filters of system calls: " + std::to_string(plan.record.filters.size()));
  std::string words;
  for (const std::string& word : plan.record.argv) {
    words += ' ' + word;
  }
  verbose("command:" + words);
}

}  // namespace postern::cli
