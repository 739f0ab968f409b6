#include "policy/ecl/profile.h"

#include <array>
#include <utility>

#include <sched.h>

namespace postern::ecl {
namespace {

struct Word {
  std::string_view word;
  std::uint32_t bit;
};

constexpr std::array kNamespaceWords = std::to_array<Word>({
    {"pid", CLONE_NEWPID},
    {"ipc", CLONE_NEWIPC},
    {"uts", CLONE_NEWUTS},
    {"net", CLONE_NEWNET},
});

constexpr std::array kDenyWords = std::to_array<Word>({
    {"user-binds", kDenyUserBinds},
    {"overlay", kDenyOverlay},
    {"devices", kDenyDevices},
    {"capabilities", kDenyCapabilities},
    {"home", kDenyHome},
    {"tmp", kDenyTmp},
});

template <std::size_t N>
std::uint32_t bit_of(const std::array<Word, N>& words, std::string_view word) noexcept {
  for (const Word& row : words) {
    if (row.word == word) {
      return row.bit;
    }
  }
  return 0;
}

template <std::size_t N>
void add_words(std::string& out,
               std::string_view begin,
               const std::array<Word, N>& words,
               std::uint32_t bits) {
  std::string list;
  for (const Word& row : words) {
    if ((bits & row.bit) != 0) {
      list += list.empty() ? "" : ",";
      list += row.word;
    }
  }
  if (!list.empty()) {
    out += (out.empty() ? "" : "; ") + std::string(begin) + list;
  }
}

}  // namespace

std::uint32_t namespace_bit(std::string_view word) noexcept {
  return bit_of(kNamespaceWords, word);
}

std::uint32_t deny_bit(std::string_view word) noexcept {
  return bit_of(kDenyWords, word);
}

config::SiteConfig narrowed(config::SiteConfig site, const Profile& profile) {
  const auto denies = [&](Denied what) { return (profile.deny & what) != 0; };
  site.allow_user_binds = site.allow_user_binds && !denies(kDenyUserBinds);
  site.allow_overlay = site.allow_overlay && !denies(kDenyOverlay);
  if (denies(kDenyDevices) && site.mount_dev == config::DevMount::kYes) {
    site.mount_dev = config::DevMount::kMinimal;
  }
  if (denies(kDenyDevices)) {
    site.nv_always = false;
    site.rocm_always = false;
  }
  site.mount_home = site.mount_home && !denies(kDenyHome);
  site.mount_tmp = site.mount_tmp && !denies(kDenyTmp);
  return site;
}

std::string describe(const Profile& profile) {
  std::string out;
  add_words(out, "requires ", kNamespaceWords, profile.require);
  add_words(out, "denies ", kDenyWords, profile.deny);
  if (!profile.binds.empty()) {
    out += (out.empty() ? "binds below " : "; binds below ") + profile.binds.front();
    for (std::size_t i = 1; i < profile.binds.size(); ++i) {
      out += ',' + profile.binds[i];
    }
  }
  return out.empty() ? "takes nothing away" : out;
}

}  // namespace postern::ecl
