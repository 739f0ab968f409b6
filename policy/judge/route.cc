#include "policy/judge/route.h"

#include <array>
#include <string_view>

#include "policy/judge/decide.h"

namespace postern::judge {
namespace {

using config::KernelMount;
using config::SiteConfig;

// A request for this root and nothing else.
LaunchRequest request_for(RootKind root, const ImageFacts& image) {
  LaunchRequest request;
  request.root = root;
  request.init = 1;
  request.record = 2;
  if (root == RootKind::kImage && image.encrypted) {
    request.volume_key = 3;
  }
  return request;
}

// The refusal of such a request; kNone where it is admitted.
RefusalCode answer_to(RootKind root, const Facts& facts, const SiteConfig& site) {
  const LaunchRequest request = request_for(root, *facts.image);
  static thread_local Verdict verdict;
  const auto decided = decide(facts, request, request.volume_key ? 4 : 3, site, verdict);
  return decided ? RefusalCode::kNone : decided.error().code;
}

// ---- the table

struct Column {
  std::string_view word;
  KernelMount value;
};

constexpr std::array kColumns = std::to_array<Column>({
    {"trusted", KernelMount::kTrusted},
    {"limited", KernelMount::kLimited},
    {"any", KernelMount::kAny},
    {"never", KernelMount::kNever},
});

// How the bytes of an image are tied to what was verified (ecl.toml(5), binding).
struct Kind {
  std::string_view words;
  bool is_signed;
  bool unwritable;
  bool sealed;
};

constexpr std::array kKinds = std::to_array<Kind>({
    {"unsigned, of the user's", false, false, false},
    {"unsigned, of root's alone", false, true, false},
    {"signed (\"hash\")", true, false, false},
    {"signed, of root's alone (\"unwritable\")", true, true, false},
    {"signed and sealed (\"sealed\")", true, false, true},
});

struct Rules {
  std::string_view words;
  bool list;
  bool limit;
};

constexpr std::array kRules = std::to_array<Rules>({
    {"no list, no limit", false, false},
    {"a limit that it meets", false, true},
    {"a list that admits its signer", true, false},
    {"both", true, true},
});

struct Situation {
  Facts facts;
  SiteConfig site;
};

Situation situation_of(const Rules& rules, const Kind& kind, KernelMount kernel_mount) {
  Situation out;
  out.site.suid_enabled = true;
  out.site.kernel_mount_squashfs = kernel_mount;
  ImageFacts image{
      .offset = 4096, .bytes = 8192, .unwritable = kind.unwritable, .path = "/a/x.sif"};
  if (kind.sealed) {
    image.verity = VerityGeometry{.data_blocks = 2, .tree_offset = 12288, .tree_bytes = 4096};
  }
  if (rules.limit) {
    out.site.limit_paths = {"/a"};
    out.facts.limits.paths = {"/a"};
  }
  // What decide_ecl() makes of such an image, whose signer the list names.
  ecl::EclConfig list{.activated = rules.list, .file = "ecl.toml"};
  list.groups.push_back({.mode = ecl::Mode::kWhitelist, .keys = {"pgp:site"}, .line = 1});
  ecl::ImageFacts signatures;
  signatures.any_valid = kind.is_signed;
  signatures.binding = kind.sealed       ? ecl::Binding::kSealed
                       : kind.unwritable ? ecl::Binding::kUnwritable
                                         : ecl::Binding::kHash;
  if (kind.is_signed) {
    signatures.valid = {"pgp:site"};
  } else {
    signatures.problem_code = RefusalCode::kEclUnsigned;
  }
  out.facts.image = image;
  out.facts.ecl_active = rules.list;
  if (rules.list || kind.sealed) {  // as Signatures::look_at()
    out.facts.ecl = ecl::decide_ecl(list, signatures);
  }
  return out;
}

std::string_view word_of(Route route) {
  switch (route) {
    case Route::kKernel:
      return "kernel";
    case Route::kUserSpace:
      return "user space";
    case Route::kRefused:
      return "refused";
  }
  return "";
}

// "kernel", or "kernel; user space without device-mapper".
std::string cell(const Rules& rules, const Kind& kind, KernelMount kernel_mount) {
  const Situation situation = situation_of(rules, kind, kernel_mount);
  const std::string_view with = word_of(route_of(situation.facts, situation.site, true));
  const std::string_view without = word_of(route_of(situation.facts, situation.site, false));
  return with == without ? std::string(with)
                         : std::string(with) + " (" + std::string(without) + ")";
}

}  // namespace

Route route_of(const Facts& facts, const SiteConfig& site, bool device_mapper) noexcept {
  const RefusalCode answer = answer_to(RootKind::kImage, facts, site);
  const bool needs_mapping = facts.image->verity || facts.image->crypt;
  if (answer == RefusalCode::kNone && (device_mapper || !needs_mapping)) {
    return Route::kKernel;
  }
  if (answer != RefusalCode::kNone && answer != RefusalCode::kKernelMount) {
    return Route::kRefused;
  }
  return answer_to(RootKind::kFuse, facts, site) == RefusalCode::kNone ? Route::kUserSpace
                                                                       : Route::kRefused;
}

std::string route_table() {
  std::string out = "[[ *Rules*\n:- *Image*\n";
  for (const Column& column : kColumns) {
    out += ":- *\"" + std::string(column.word) + "\"*\n";
  }
  for (const Rules& rules : kRules) {
    for (const Kind& kind : kKinds) {
      out += "|  " + std::string(rules.words) + "\n:  " + std::string(kind.words) + "\n";
      for (const Column& column : kColumns) {
        out += ":  " + cell(rules, kind, column.value) + "\n";
      }
    }
  }
  return out;
}

}  // namespace postern::judge
