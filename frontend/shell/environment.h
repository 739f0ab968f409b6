// The payload's environment while it is put together.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace postern::shell {

struct Setting {
  std::string name;
  std::string value;
  bool exported = true;
};

class Environment {
 public:
  // nullptr where it is not set.
  [[nodiscard]] const std::string* find(std::string_view name) const noexcept;

  // Sets it. A variable that was exported stays so, as in the shell.
  void set(std::string_view name, std::string value, bool exported = true);
  // "NAME=VALUE"; text without '=' is left out.
  void set(std::string_view assignment);
  // Marks for export; sets nothing (sh(1): an unset variable that is exported stays unset).
  void mark_exported(std::string_view name);
  void unset(std::string_view name);
  void drop_unexported();

  [[nodiscard]] const std::vector<Setting>& variables() const noexcept { return variables_; }

 private:
  Setting* lookup(std::string_view name) noexcept;
  std::vector<Setting> variables_;
};

// The strings of execve(2)'s envp.
class EnvironmentBlock {
 public:
  explicit EnvironmentBlock(const Environment& environment);

  [[nodiscard]] char** get() noexcept { return pointers_.data(); }

 private:
  std::vector<std::string> strings_;
  std::vector<char*> pointers_;
};

// A name that a shell can export: [A-Za-z_][A-Za-z0-9_]*.
bool is_identifier(std::string_view name) noexcept;

}  // namespace postern::shell
