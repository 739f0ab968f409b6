// postern-yaml FILE: prints the YAML document as JSON. On an error, prints what was wrong and ends
// with status 1. A program of its own, so that bin/postern does not load yaml-cpp.
#include <cstdio>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include <yaml-cpp/yaml.h>

#include "policy/json/strict.h"
#include "protocol/limits.h"

namespace {

constexpr unsigned kMaxDepth = 16;

// An alias stands for what it names, which may hold aliases again: the output is bounded.
void append(std::string_view text, std::string& out) {
  out += text;
  if (out.size() > postern::kMaxFileBytes) {
    throw std::runtime_error("it is larger than 4 MiB once its aliases are replaced");
  }
}

bool is_decimal(std::string_view text) {
  return !text.empty() && text.size() < 19 && (text == "0" || text.front() != '0') &&
         text.find_first_not_of("0123456789") == text.npos;
}

// YAML 1.2, 10.3.2, as far as specifications need it: a quoted scalar is a text; of the plain ones
// some are null, booleans or numbers.
std::string scalar(const YAML::Node& node) {
  const std::string& text = node.Scalar();
  const bool plain = node.Tag() == "?";
  if (plain && (text == "true" || text == "false" || is_decimal(text))) {
    return text;
  }
  return plain && (text == "~" || text == "null") ? "null" : postern::json::quoted(text);
}

void write(const YAML::Node& node, unsigned depth, std::string& out) {
  if (depth > kMaxDepth) {
    throw std::runtime_error("it is nested too deeply");
  }
  const char* separator = "";
  switch (node.Type()) {
    case YAML::NodeType::Undefined:
    case YAML::NodeType::Null:
      append("null", out);
      return;
    case YAML::NodeType::Scalar:
      append(scalar(node), out);
      return;
    case YAML::NodeType::Sequence:
      append("[", out);
      for (const YAML::Node& item : node) {
        append(separator, out);
        write(item, depth + 1, out);
        separator = ",";
      }
      append("]", out);
      return;
    case YAML::NodeType::Map:
      append("{", out);
      for (const auto& member : node) {
        append(separator + postern::json::quoted(member.first.Scalar()) + ':', out);
        write(member.second, depth + 1, out);
        separator = ",";
      }
      append("}", out);
      return;
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string out;
  int status = 0;
  try {
    std::ifstream file(argc > 1 ? argv[1] : "");
    if (!file) {
      throw std::runtime_error("it cannot be read");
    }
    std::string text(postern::kMaxFileBytes + 1, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(file.gcount()));
    if (text.size() > postern::kMaxFileBytes) {
      throw std::runtime_error("it is larger than 4 MiB");
    }
    write(YAML::Load(text), 0, out);
  } catch (const std::exception& error) {
    out = error.what();
    status = 1;
  }
  return std::fputs(out.c_str(), stdout) < 0 || std::fflush(stdout) != 0 ? 2 : status;
}
