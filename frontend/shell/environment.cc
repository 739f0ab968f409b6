#include "frontend/shell/environment.h"

#include <algorithm>

namespace postern::shell {

Setting* Environment::lookup(std::string_view name) noexcept {
  const auto found = std::find_if(variables_.begin(), variables_.end(),
                                  [name](const Setting& one) { return one.name == name; });
  return found == variables_.end() ? nullptr : &*found;
}

const std::string* Environment::find(std::string_view name) const noexcept {
  for (const Setting& one : variables_) {
    if (one.name == name) {
      return &one.value;
    }
  }
  return nullptr;
}

void Environment::set(std::string_view name, std::string value, bool exported) {
  if (Setting* const one = lookup(name); one != nullptr) {
    one->value = std::move(value);
    one->exported = one->exported || exported;
    return;
  }
  variables_.push_back({std::string(name), std::move(value), exported});
}

void Environment::set(std::string_view assignment) {
  const auto equals = assignment.find('=');
  if (equals != std::string_view::npos && equals > 0) {
    set(assignment.substr(0, equals), std::string(assignment.substr(equals + 1)));
  }
}

void Environment::mark_exported(std::string_view name) {
  if (Setting* const one = lookup(name); one != nullptr) {
    one->exported = true;
  }
}

void Environment::unset(std::string_view name) {
  std::erase_if(variables_, [name](const Setting& one) { return one.name == name; });
}

void Environment::drop_unexported() {
  std::erase_if(variables_, [](const Setting& one) { return !one.exported; });
}

EnvironmentBlock::EnvironmentBlock(const Environment& environment) {
  strings_.reserve(environment.variables().size());
  pointers_.reserve(environment.variables().size() + 1);
  for (const Setting& one : environment.variables()) {
    std::string text;
    text.reserve(one.name.size() + one.value.size() + 1);
    text += one.name;
    text += '=';
    text += one.value;
    strings_.push_back(std::move(text));
    pointers_.push_back(strings_.back().data());
  }
  pointers_.push_back(nullptr);
}

bool is_identifier(std::string_view name) noexcept {
  if (name.empty() || (name[0] >= '0' && name[0] <= '9')) {
    return false;
  }
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

}  // namespace postern::shell
