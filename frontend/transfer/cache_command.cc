// cache list, cache clean.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "frontend/cache/cache.h"
#include "frontend/imagebuild/new_directory.h"
#include "frontend/imagebuild/options.h"
#include "frontend/message/message.h"
#include "frontend/option/usage.h"
#include "frontend/transfer/command.h"
#include "frontend/transfer/output.h"
#include "protocol/exit_codes.h"

namespace postern::transfer {
namespace {

using cache::Cache;
using cache::Type;
using option::Kind;

enum : option::CommandSet { kList = 1, kClean = 2 };

// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
    {"days", 'D', "", Kind::kText, kClean, "DAYS", "keep what is younger than so many days"},
    {"dry-run", 'n', "", Kind::kFlag, kClean, "", "show what would be removed"},
    {"force", 'f', "", Kind::kFlag, kClean, "", "do not ask"},
    {"type", 'T', "", Kind::kList, kList | kClean, "TYPES", "of blob, library, oci-tmp, shub, oras, ipfs, net; all (default)"},
    {"verbose", 'v', "", Kind::kFlag, kList, "", "every entry"},
});
// clang-format on

constexpr option::Usage kListUsage{
    "cache list", "[options]", "Show what is in the cache", kOptions, kList, 0, 0};
constexpr option::Usage kCleanUsage{
    "cache clean", "[options]", "Remove what is in the cache", kOptions, kClean, 0, 0};

// In the order in which they are shown.
constexpr std::array kOrder = {Type::kBlob, Type::kLibrary, Type::kOciTmp, Type::kShub,
                               Type::kOras, Type::kIpfs,    Type::kNet};

Outcome<std::vector<Type>> types_of(const option::Arguments& arguments) {
  std::vector<Type> out;
  for (const std::string& name : arguments.values("type")) {
    Type type{};
    if (name == "all") {
      out.assign(kOrder.begin(), kOrder.end());
      return out;
    }
    if (name == "oci") {
      out.insert(out.end(), {Type::kBlob, Type::kOciTmp});
    } else if (cache::parse_type(name, type)) {
      out.push_back(type);
    } else {
      return Problem{.what = "the cache has no type '" + name + "'",
                     .cure = "blob, library, oci-tmp, shub, oras, ipfs, net and all are known"};
    }
  }
  if (out.empty()) {
    out.assign(kOrder.begin(), kOrder.end());
  }
  return out;
}

std::string date_text(std::int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  std::array<char, 32> text{};
  if (::localtime_r(&time, &parts) == nullptr ||
      std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &parts) == 0) {
    return "";
  }
  return text.data();
}

Outcome<> list(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const std::vector<Type> types, types_of(arguments));
  POSTERN_TRY_ASSIGN(const Cache cache, Cache::open(false));
  std::uint64_t files = 0;
  std::uint64_t file_bytes = 0;
  std::uint64_t blobs = 0;
  std::uint64_t blob_bytes = 0;
  const bool verbose = arguments.given("verbose");
  if (verbose) {
    std::printf("%-24.22s %-22s %-16s %s\n", "NAME", "DATE CREATED", "SIZE", "TYPE");
  }
  bool wants_files = false;
  bool wants_blobs = false;
  for (const Type type : types) {
    (type == Type::kBlob ? wants_blobs : wants_files) = true;
    for (const cache::Entry& entry : cache.entries(type)) {
      (type == Type::kBlob ? blobs : files) += 1;
      (type == Type::kBlob ? blob_bytes : file_bytes) += entry.bytes;
      if (verbose) {
        std::printf("%-24.22s %-22s %-16s %s\n", entry.name.c_str(),
                    date_text(entry.modified).c_str(), size_text(entry.bytes).c_str(),
                    std::string(cache::name_of(type)).c_str());
      }
    }
  }
  if (verbose) {
    std::printf("\n");
  }
  std::string line = "There are";
  if (wants_files) {
    line += " " + std::to_string(files) + " container file(s) using " + size_text(file_bytes);
  }
  if (wants_blobs) {
    line += std::string(wants_files ? " and" : "") + " " + std::to_string(blobs) +
            " oci blob file(s) using " + size_text(blob_bytes);
  }
  std::printf("%s of space\nTotal space used: %s\n", line.c_str(),
              size_text(file_bytes + blob_bytes).c_str());
  return Ok{};
}

Outcome<std::int64_t> oldest_kept(const option::Arguments& arguments) {
  const std::string_view text = arguments.text("days");
  if (text.empty()) {
    return std::int64_t{0};
  }
  std::int64_t days = 0;
  constexpr std::int64_t kMostDays = 1000000;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), days);
  if (error != std::errc() || end != text.data() + text.size() || days < 0 || days > kMostDays) {
    return Problem{.what = "--days takes a number of days, not '" + std::string(text) + "'",
                   .exit_code = kExitUsage};
  }
  return days == 0 ? 0 : std::time(nullptr) - days * 24 * 3600;
}

// Only "y" goes on. Error: the question had no answer.
Outcome<bool> confirmed(const std::vector<Type>& types) {
  std::string names;
  for (const Type type : types) {
    names += (names.empty() ? "" : ", ") + std::string(cache::name_of(type));
  }
  std::printf(
      "This will delete everything in your cache (containers from all sources and OCI "
      "blobs: %s).\nHint: You can see exactly what would be deleted by canceling and using "
      "the --dry-run option.\nDo you want to continue? [y/N] ",
      names.c_str());
  std::fflush(stdout);
  std::string answer;
  for (int c = std::getchar(); c != '\n'; c = std::getchar()) {
    if (c == EOF) {
      return Problem{.what = "Error while reading user's choice: EOF",
                     .cure = "add --force to be asked nothing"};
    }
    answer += static_cast<char>(c);
  }
  return answer == "y" || answer == "Y";
}

Outcome<> clean(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const std::vector<Type> types, types_of(arguments));
  POSTERN_TRY_ASSIGN(const std::int64_t oldest, oldest_kept(arguments));
  POSTERN_TRY_ASSIGN(const Cache cache, Cache::open(false));
  const bool dry = arguments.given("dry-run");
  if (dry) {
    std::printf("User requested a dry run. Not actually deleting any data!\n");
  } else if (!arguments.given("force")) {
    POSTERN_TRY_ASSIGN(const bool yes, confirmed(types));
    if (!yes) {
      message::info("Handle cleanup canceled");
      return Ok{};
    }
  }
  std::uint64_t freed = 0;
  for (const Type type : types) {
    const std::vector<cache::Entry> entries = cache.entries(type);
    if (entries.empty() && cache.enabled()) {
      message::info("No cached files to remove at " + cache.directory(type));
    }
    for (const cache::Entry& entry : entries) {
      if (oldest != 0 && entry.modified > oldest) {
        continue;
      }
      message::info("Removing " + std::string(cache::name_of(type)) +
                    " cache entry: " + entry.name);
      freed += entry.bytes;
      if (dry) {
        continue;
      }
      if (const auto removed = cache.remove(entry); !removed) {
        message::warning(removed.error().what);
      }
    }
  }
  if (!dry) {
    // Not of the cache, but who cleans up expects it: what builds that were killed left behind.
    imagebuild::remove_abandoned(imagebuild::temporary_directory());
    imagebuild::remove_abandoned(".");
  }
  message::info((dry ? "Would free " : "Freed ") + size_text(freed));
  return Ok{};
}

int show_sub_commands(std::FILE* to) {
  std::fputs(
      "Manage the cache of downloaded and converted images\n\nUsage:\n"
      "  postern cache list [options]\n  postern cache clean [options]\n",
      to);
  return to == stdout ? 0 : kExitUsage;
}

}  // namespace

int cache_command(std::span<const std::string> words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h") {
    return show_sub_commands(words.empty() ? stderr : stdout);
  }
  if (words[0] != "list" && words[0] != "clean") {
    (void)message::unknown_command(words[0], "cache", "");
    return show_sub_commands(stderr);
  }
  const bool listing = words[0] == "list";
  const auto arguments =
      option::parse_command(listing ? kListUsage : kCleanUsage, words.subspan(1));
  if (!arguments) {
    return arguments.error();
  }
  auto done = listing ? list(*arguments) : clean(*arguments);
  return done ? 0 : fail(std::move(done).error());
}

}  // namespace postern::transfer
