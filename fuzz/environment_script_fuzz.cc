// Environment scripts and runscripts of images, as postern-init interprets them without a shell.
#include <string_view>

#include "frontend/init/oci_script.h"
#include "frontend/shell/environment.h"
#include "frontend/shell/shell.h"
#include "fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace shell = postern::shell;
  const std::string_view text(reinterpret_cast<const char*>(data),
                              size);  // SAFETY: bytes are chars
  shell::Environment environment;
  environment.set("PATH", "/bin");
  environment.set("HOME", "/home/user");
  // Variables alone: nothing of this process or its files is seen or changed.
  shell::Session session(environment, shell::Reach::kVariables);
  if (session.run(text, "script").ended != shell::Ended::kBeyond) {
    const shell::Environment after = session.environment();
    for (const auto& variable : after.variables()) {
      if (variable.name.empty() || variable.name.find('=') != std::string::npos) {
        __builtin_trap();
      }
    }
  }
  static_cast<void>(shell::expand_quoted(text, environment, shell::Reach::kVariables));
  static_cast<void>(shell::plain_words(text, environment));
  for (const bool has_shell : {true, false}) {
    const auto command =
        postern::init::oci_command(text, {"one", "two words"}, environment, has_shell);
    if (command && command->empty()) {
      __builtin_trap();
    }
  }
  return 0;
}
