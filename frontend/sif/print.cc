#include "frontend/sif/print.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <utility>
#include <vector>

#include "policy/text/hex.h"
#include "policy/text/printable.h"

namespace postern::sif {
namespace {

using Rows = std::vector<std::pair<std::string, std::string>>;

// Labels and values in two columns that are `gap` apart at the longest label.
std::string columns(const Rows& rows, std::string_view indent, std::size_t gap) {
  std::size_t widest = 0;
  for (const auto& [label, value] : rows) {
    widest = std::max(widest, label.size());
  }
  std::string text;
  for (const auto& [label, value] : rows) {
    text += indent;
    text += label;
    text.append(widest - label.size() + gap, ' ');
    text += value;
    text += '\n';
  }
  return text;
}

std::string padded(std::string text, std::size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}

std::string group_text(const Descriptor& d) {
  return d.group == 0 ? "NONE" : std::to_string(d.group);
}

std::string fingerprint_text(const SignatureInfo& signature) {
  return text::to_hex(signature.fingerprint, text::Case::kUpper);
}

// What stands in parentheses behind the type.
std::string type_text(const Descriptor& d) {
  std::string text{name_of(d.type)};
  const auto add = [&](const std::string& details) { text += " (" + details + ")"; };
  if (const PartitionInfo* p = d.partition()) {
    add(std::string(name_of(p->fs)) + "/" + std::string(name_of(p->type)) + "/" +
        std::string(name_of(p->architecture)));
  } else if (const SignatureInfo* s = d.signature()) {
    add(std::string(name_of(s->hash)));
  } else if (const MessageInfo* m = d.message()) {
    add(std::string(name_of(m->format)) + "/" + std::string(name_of(m->type)));
  } else if (const auto* sbom = std::get_if<SbomInfo>(&d.extra)) {
    add(std::string(name_of(sbom->format)));
  }
  return text;
}

}  // namespace

std::string time_text(std::int64_t unix_seconds) {
  const std::time_t seconds = unix_seconds;
  std::tm broken{};
  std::array<char, 64> text{};
  if (::gmtime_r(&seconds, &broken) == nullptr ||
      std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S +0000 UTC", &broken) == 0) {
    return std::to_string(unix_seconds);
  }
  return text.data();
}

std::string size_text(std::int64_t bytes) {
  constexpr std::array<std::string_view, 7> kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  while (bytes >= 1024) {
    bytes /= 1024;
    ++unit;
  }
  return std::to_string(bytes) + " " + std::string(kUnits[unit]);
}

std::string header_text(const Image& image) {
  const Header& h = image.header();
  Rows rows;
  if (!h.launch.empty()) {
    std::string launch = h.launch;
    if (launch.ends_with('\n')) {
      launch.pop_back();
    }
    rows.emplace_back("Launch Script:", text::printable(launch));
  }
  rows.emplace_back("Version:", kVersion.substr(0, 2));
  if (h.architecture != Architecture::kUnknown) {
    rows.emplace_back("Primary Architecture:", name_of(h.architecture));
  }
  if (std::any_of(h.id.begin(), h.id.end(), [](std::uint8_t b) { return b != 0; })) {
    rows.emplace_back("ID:", uuid_text(h.id));
  }
  if (h.created != kNoTime) {
    rows.emplace_back("Created At:", time_text(h.created));
  }
  if (h.modified != kNoTime) {
    rows.emplace_back("Modified At:", time_text(h.modified));
  }
  rows.emplace_back("Descriptors Free:", std::to_string(h.free));
  rows.emplace_back("Descriptors Total:", std::to_string(h.total));
  rows.emplace_back("Descriptors Offset:", std::to_string(h.table_offset));
  rows.emplace_back("Descriptors Size:", size_text(h.table_bytes));
  rows.emplace_back("Data Offset:", std::to_string(h.data_offset));
  rows.emplace_back("Data Size:", size_text(h.data_bytes));
  return columns(rows, "", 1);
}

std::string list_text(const Image& image) {
  const std::string rule(78, '-');
  std::string text =
      rule + "\nID   |GROUP   |LINK    |SIF POSITION (start-end)  |TYPE\n" + rule + "\n";
  for (const Descriptor& d : image.descriptors()) {
    std::string link = "NONE";
    if (d.link != 0) {
      link = std::to_string(d.link);
      if (d.link_is_group) {
        link = padded(link, 3) + " (G)";
      }
    }
    // Unsigned: the sum of two numbers from the file may wrap, and is only shown.
    const auto end = static_cast<std::int64_t>(static_cast<std::uint64_t>(d.offset) +
                                               static_cast<std::uint64_t>(d.size));
    text += padded(std::to_string(d.id), 4) + " |" + padded(group_text(d), 7) + " |" +
            padded(link, 7) + " |" +
            padded(std::to_string(d.offset) + "-" + std::to_string(end), 25) + " |" + type_text(d) +
            "\n";
  }
  return text;
}

std::string info_text(const Descriptor& d) {
  Rows rows;
  rows.emplace_back("Data Type:", name_of(d.type));
  rows.emplace_back("ID:", std::to_string(d.id));
  rows.emplace_back("Group ID:", group_text(d));
  rows.emplace_back("Linked ID:", d.link == 0
                                      ? "NONE"
                                      : std::to_string(d.link) + (d.link_is_group ? " (G)" : ""));
  rows.emplace_back("Offset:", std::to_string(d.offset));
  rows.emplace_back("Size:", std::to_string(d.size));
  if (d.created != kNoTime) {
    rows.emplace_back("Created At:", time_text(d.created));
  }
  if (d.modified != kNoTime) {
    rows.emplace_back("Modified At:", time_text(d.modified));
  }
  if (!d.name.empty()) {
    rows.emplace_back("Name:", text::printable(d.name));
  }
  if (const PartitionInfo* p = d.partition()) {
    rows.emplace_back("Filesystem Type:", name_of(p->fs));
    rows.emplace_back("Partition Type:", name_of(p->type));
    rows.emplace_back("Architecture:", name_of(p->architecture));
  } else if (const SignatureInfo* s = d.signature()) {
    rows.emplace_back("Hash Type:", name_of(s->hash));
    rows.emplace_back("Entity:", fingerprint_text(*s));
  } else if (const MessageInfo* m = d.message()) {
    rows.emplace_back("Format Type:", name_of(m->format));
    rows.emplace_back("Message Type:", name_of(m->type));
  } else if (const auto* sbom = std::get_if<SbomInfo>(&d.extra)) {
    rows.emplace_back("Format:", name_of(sbom->format));
  } else if (const auto* oci = std::get_if<OciInfo>(&d.extra)) {
    rows.emplace_back("Digest:", text::printable(oci->digest));
  }
  return columns(rows, "  ", 2);
}

}  // namespace postern::sif
