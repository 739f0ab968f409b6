// key-servers: which key servers the user's remotes name, for postern-keys. One a line: address, a
// tab, the value of Authorization (may be empty).
#include <algorithm>
#include <cstdio>
#include <string>

#include "frontend/keys/hkp.h"
#include "frontend/message/message.h"
#include "frontend/net/registry.h"
#include "frontend/net/remotes.h"
#include "frontend/transfer/command.h"
#include "protocol/exit_codes.h"

namespace postern::transfer {
namespace {

std::string login_at(const net::Remotes& remotes, const std::string& uri) {
  const auto found = std::find_if(remotes.logins.begin(), remotes.logins.end(),
                                  [&](const net::Login& login) { return login.uri == uri; });
  return found == remotes.logins.end() ? "" : found->authorization;
}

std::string lines_of(const net::Remotes& remotes) {
  const net::Remote* const active = remotes.find("");
  std::string out;
  if (active != nullptr) {
    const std::string own = active->token.empty() ? "" : "Bearer " + active->token;
    for (const net::KeyServer& server : active->key_servers) {
      if (!server.skip) {
        out += server.uri + "\t" + (server.external ? login_at(remotes, server.uri) : own) + "\n";
      }
    }
    if (!active->key_servers.empty()) {
      return out;
    }
    net::Session session(net::SessionOptions{});
    const auto services = net::discover(session.client(), *active);
    if (services && services->find("keystore") != services->end()) {
      return services->at("keystore") + "\t" + own + "\n";
    }
    message::verbose("the remote names no key server: asking " +
                     std::string(keys::kDefaultKeyServer));
  }
  return std::string(keys::kDefaultKeyServer) + "\t\n";
}

}  // namespace

int key_servers_command(std::span<const std::string>) {
  const auto remotes = net::load_remotes();
  if (!remotes) {
    return fail(remotes.error(), "Unable to get keyserver client configuration: ");
  }
  const std::string out = lines_of(*remotes);
  return std::fputs(out.c_str(), stdout) >= 0 && std::fflush(stdout) == 0 ? 0 : kExitFatal;
}

}  // namespace postern::transfer
