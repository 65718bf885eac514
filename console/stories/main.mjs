// Every story, one after another; `node main.mjs [WORD]` tells those whose name holds the word.
// Pictures are kept in BERTH_PICTURES, where that is set.

import * as accounts from "./accounts.mjs";
import * as changes from "./changes.mjs";
import { whatAnAppUsesAndAnswersIsDrawn } from "./charts.mjs";
import { aFloodOfLogInsSlowsNobodyElse } from "./flood.mjs";
import { whatIsFrozenIsDrawnAndObeyed } from "./freezes.mjs";
import { start } from "./ground.mjs";
import * as hostile from "./hostile.mjs";
import { whoHasNoMouseReleasesAnApp } from "./keys.mjs";
import * as logs from "./logs.mjs";
import { whoAProviderNamesGetsIn } from "./oidc.mjs";
import * as oncall from "./oncall.mjs";
import * as own from "./own.mjs";
import * as pages from "./pages.mjs";
import { whatAnyFieldHoldsIsText } from "./payloads.mjs";
import * as people from "./people.mjs";
import { whoScaledAnAppIsToldWithTheRule } from "./scale.mjs";
import { anAppsRoutesProbesAndVersionsAreTold } from "./versions.mjs";
import * as shell from "./shell.mjs";

const STORIES = [
  people.whoIsWrongStaysOutAndWhoIsRightComesIn,
  whoAProviderNamesGetsIn,
  people.whoMayOnlyLookIsRefusedWhatChanges,
  pages.everyPageIsForEverybody,
  pages.everyPageFitsANarrowScreen,
  pages.aPartThatDoesNotComeIsAskedForAgain,
  whoHasNoMouseReleasesAnApp,
  changes.anAppIsDeployedAndSeen,
  changes.aChangeIsLookedAtBeforeItIsMade,
  changes.aCanaryIsStoppedAndTakenBack,
  changes.whoDidWhatIsWrittenDown,
  changes.aCanaryThatFailsComesBackByItself,
  oncall.whatIsBrokenAndUnderWayIsTold,
  oncall.whatAppsAndNodesCostIsTold,
  oncall.anAuditIsFilteredAndTakenAway,
  oncall.whatTheServerSaysIsInChinese,
  own.anAppHasItsOwnInstancesAndEventsAlone,
  own.aNodeAtRestIsWellAndAPodThatDoesNotEndIsNot,
  accounts.whoIsAskedForGetsInAndGoesWithTheRequest,
  accounts.anAccountIsLookedAfterByOthersAndByItsOwn,
  logs.whatAnAppWritesIntoFilesIsReadToo,
  logs.aLogThatBreaksIsTakenUpWhereItEnded,
  whatAnAppUsesAndAnswersIsDrawn,
  anAppsRoutesProbesAndVersionsAreTold,
  whoScaledAnAppIsToldWithTheRule,
  whatIsFrozenIsDrawnAndObeyed,
  hostile.whatAPodWritesIsText,
  hostile.aLineWithoutEndLeavesThePageAsItWas,
  whatAnyFieldHoldsIsText,
  aFloodOfLogInsSlowsNobodyElse,
  shell.whatIsTypedInAShellIsReplayed,
  shell.aShellIsCutOff,
  shell.whoMayOnlyLookGetsNoShell,
  shell.aContainerIsMadeToLookIntoAPod,
];

const word = process.argv[2] ?? "";
const browser = await start();
let failed = 0;
for (const story of STORIES.filter((one) => one.name.includes(word))) {
  const begun = performance.now();
  try {
    await story(browser);
    console.log(`${story.name}: ${((performance.now() - begun) / 1000).toFixed(1)} s`);
  } catch (error) {
    failed += 1;
    console.log(`${story.name} FAILED: ${error.stack}`);
    await last(story.name);
  }
}
await browser.close();
process.exitCode = failed > 0 ? 1 : 0;

/** What the page looked like in which it went wrong, for whoever asks for pictures. */
async function last(name) {
  const directory = process.env.BERTH_PICTURES;
  for (const context of browser.contexts()) {
    for (const page of context.pages()) {
      if (directory) await page.screenshot({ path: `${directory}/failed-${name}.png` });
      console.log(`at ${page.url()}:\n${(await page.locator("body").innerText()).slice(0, 2000)}`);
    }
    await context.close();
  }
}
