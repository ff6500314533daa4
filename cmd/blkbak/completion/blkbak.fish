# fish completion for blkbak

function __blkbak_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($words[1] __complete -- $words[2..-1] "$current" 2>/dev/null)
    printf '%s\n' $lines[2..-1]
    if contains -- "$lines[1]" files dirs
        # Of --flag=VALUE only the value is a path.
        set -l lead (string match -r -- '^--[^=]*=' "$current")
        set -l value (string replace -r -- '^--[^=]*=' '' "$current")
        if test "$lines[1]" = dirs
            printf '%s\n' "$lead"(__fish_complete_directories "$value" '')
        else
            printf '%s\n' "$lead"(__fish_complete_path "$value")
        end
    end
end

complete -c blkbak -f -a '(__blkbak_complete)'
