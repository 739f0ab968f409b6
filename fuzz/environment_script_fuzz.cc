// Environment scripts and runscripts of images, as postern-init interprets them without a shell.
#include <string_view>

#include "frontend/init/env_script.h"
#include "frontend/init/environment.h"
#include "fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace init = postern::init;
  const std::string_view text(reinterpret_cast<const char*>(data),
                              size);  // SAFETY: bytes are chars
  init::Environment before;
  before.set("PATH", "/bin");
  before.set("HOME", "/home/user");
  init::Environment environment = before;
  if (init::interpret(text, environment)) {
    for (const init::Variable& variable : environment.variables()) {
      if (!init::is_identifier(variable.name) || variable.value.find('\0') != std::string::npos) {
        __builtin_trap();
      }
    }
  }
  static_cast<void>(init::expand_value(text, before));
  static_cast<void>(init::split_words(text, before));
  for (const bool shell : {true, false}) {
    const auto command = init::oci_command(text, {"one", "two words"}, before, shell);
    if (command && command->empty()) {
      __builtin_trap();
    }
  }
  return 0;
}
