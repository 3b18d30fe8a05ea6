# CHANGELOG.md as a Debian changelog: awk -v package=NAME -v version=VERSION -v maintainer='NAME <MAIL>' -v date=DATE -f changelog.awk CHANGELOG.md
#
# "## Unreleased" is VERSION-1, made at DATE; "## 1.2.3 - 2026-12-31" is 1.2.3-1. A section without a line is left out.

function flush_item(    text, words, count, i, line) {
    if (item == "") return
    text = item
    item = ""
    # Names of files and commands stand between these in Markdown.
    gsub(/`/, "", text)
    gsub(/\*\*/, "", text)
    count = split(text, words, /[ \t]+/)
    line = "  *"
    for (i = 1; i <= count; i++) {
        if (length(line) + 1 + length(words[i]) > 78 && line !~ /^ +\*?$/) {
            body = body line "\n"
            line = "   "
        }
        line = line " " words[i]
    }
    body = body line "\n"
}

function flush_section() {
    flush_item()
    if (body != "") {
        printf "%s (%s-1) unstable; urgency=medium\n\n%s\n -- %s  %s\n\n", package, section_version, body, maintainer, section_date
    }
    body = ""
}

function long_date(day,    command, text) {
    command = "LC_ALL=C date -u -R -d " day
    command | getline text
    close(command)
    return text
}

/^## / {
    if (section_version != "") flush_section()
    if (tolower($2) == "unreleased") {
        section_version = version
        section_date = date
    } else {
        section_version = $2
        gsub(/[][v]/, "", section_version)
        section_date = $NF ~ /^[0-9]+-[0-9]+-[0-9]+$/ ? long_date($NF) : date
    }
    next
}
section_version == "" { next }
/^### / { flush_item(); body = body (body == "" ? "" : "\n") "  [ " substr($0, 5) " ]\n"; next }
/^- / { flush_item(); item = substr($0, 3); next }
/^ / && item != "" { sub(/^ +/, ""); item = item " " $0; next }
/^$/ { flush_item() }
END { if (section_version != "") flush_section() }
