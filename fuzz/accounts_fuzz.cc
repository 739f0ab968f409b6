// passwd and group files of images, on their way into the generated ones.
#include <string>
#include <string_view>

#include "frontend/plan/identity.h"
#include "frontend/suid/accounts.h"
#include "fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data),
                              size);  // SAFETY: bytes are chars
  const postern::plan::Identity caller{.uid = 4242,
                                       .gid = 4343,
                                       .name = "caller",
                                       .gecos = "A Caller",
                                       .home = "/home/caller",
                                       .shell = "/bin/bash",
                                       .groups = {{4343, "callers"}, {4444, "others"}}};
  const std::string passwd = postern::plan::merge_passwd(text, caller, "/home/caller");
  // The caller's line is there, however the file ends.
  if (passwd.find(":4242:") == std::string::npos) {
    __builtin_trap();
  }
  const std::string group = postern::plan::merge_group(text, caller);
  if (group.size() < text.size() || group.find("4444") == std::string::npos) {
    __builtin_trap();
  }
  if (const auto accounts = postern::suid::parse_accounts(text);
      accounts && accounts->passwd.size() + accounts->group.size() > size) {
    __builtin_trap();
  }
  return 0;
}
